"""Settings of PyTorch's code generator: they can be made and read, and nothing follows from them."""

from types import SimpleNamespace

allow_buffer_reuse = inplace_buffers = True
benchmark_kernel = debug = fallback_random = freezing = False
conv_1x1_as_mm = coordinate_descent_tuning = epilogue_fusion = shape_padding = False
coordinate_descent_check_all_directions = force_fuse_int_mm_with_mul = use_mixed_mm = False
fx_graph_cache = split_reductions = True
max_autotune = max_autotune_gemm = max_autotune_pointwise = reorder_for_compute_comm_overlap = False
compile_threads = 1
triton = SimpleNamespace(
    cudagraphs=False, cudagraph_trees=True, unique_kernel_names=True, multi_kernel=0
)
cpp = SimpleNamespace(threads=-1, simdlen=None, min_chunk_size=512)
