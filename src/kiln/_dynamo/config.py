"""Settings of PyTorch's capture: they can be made and read, and nothing follows from them."""

suppress_errors = False
verbose = False
cache_size_limit = recompile_limit = 8
accumulated_cache_size_limit = accumulated_recompile_limit = 256
optimize_ddp = True
capture_scalar_outputs = capture_dynamic_output_shape_ops = False
automatic_dynamic_shapes = assume_static_by_default = True
dynamic_shapes = True
force_parameter_static_shapes = True
allow_unspec_int_on_nn_module = inline_inbuilt_nn_modules = True
error_on_recompile = False
compiled_autograd = False
log_level = None
