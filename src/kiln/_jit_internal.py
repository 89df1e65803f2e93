"""Names of TorchScript's compiler that programs import: marks on functions, which Python runs as they are."""

from .jit import _overload as _overload
from .jit import _overload_method as _overload_method
from .jit import export as export
from .jit import ignore as ignore
from .jit import is_scripting as is_scripting
from .jit import unused as unused
from .jit.annotations import BroadcastingList1 as BroadcastingList1
from .jit.annotations import BroadcastingList2 as BroadcastingList2
from .jit.annotations import BroadcastingList3 as BroadcastingList3
from .jit.annotations import Future as Future

_copy_to_script_wrapper = unused
