"""Every op of the kernels and of the rules, found by walking the packages."""

import importlib
import pkgutil
from types import ModuleType

import modula.duality
import modula.kernels
from modula.kernels.op import Locality, Op


def modules_of(package: ModuleType) -> list[ModuleType]:
    """All modules of a package, imported."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [each.name for each in found if not each.name.endswith("_triton")]
    return [importlib.import_module(name) for name in names]


def ops() -> dict[str, Op]:
    """Each op that stands in a module, by the module's name and its own."""
    return {
        f"{module.__name__.removeprefix('modula.')}.{name}": value
        for package in (modula.kernels, modula.duality)
        for module in modules_of(package)
        for name, value in vars(module).items()
        if isinstance(value, Op)
    }


ELEMENTWISE = {name: op for name, op in ops().items() if op.locality is Locality.ELEMENTWISE}
