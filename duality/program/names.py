"""Names that every program may read: the inputs of a step, and the statistics of a network."""

MEAN_SQUARE = "mean_square"  # of all weights' second moments, known once all directions are
POINT = "point"  # where the weight was before the step: for lines after it
STEP = "step"  # counts the steps of a weight
INPUTS = ("weight", "gradient", "lr", MEAN_SQUARE)
# What a network's data says about a weight besides its gradient; modula.statistics collects it.
FROM_LAYERS = (
    *("input_moment", "output_moment", "layer_inputs", "output_gradients"),
    *("reduced_input_moment", "reduced_output_moment"),
    *("reduced_layer_inputs", "reduced_output_gradients"),
)
MICROBATCHES, SAMPLED_MICROBATCHES = "microbatch_gradients", "sampled_microbatch_gradients"
SAMPLED_GRADIENT = "sampled_gradient"
# At labels drawn from the network itself: the Fisher; the training loss has an empirical one.
SAMPLED = (
    SAMPLED_GRADIENT,
    SAMPLED_MICROBATCHES,
    *(f"sampled_{name}" for name in FROM_LAYERS),
)
NOISE = "noise"  # by which a weight is moved before its gradient is taken
GRADIENT_TIMES_NOISE = "gradient_times_noise"  # entry by entry, summed over the passes of a step
STATISTICS = (*FROM_LAYERS, MICROBATCHES, *SAMPLED, GRADIENT_TIMES_NOISE)
