"""Files of models that are spread over processes: not built yet; `kiln.save` writes one process's."""

from ...refusal import refuse

_WHY = "files of models over several processes are not built yet"
_HELP = "kiln.save(model.state_dict(), path) writes a model of one process"
refuse(
    __name__, "DefaultLoadPlanner DefaultSavePlanner FileSystemReader FileSystemWriter LoadPlanner SavePlanner StorageReader "
    "StorageWriter async_save load load_state_dict save save_state_dict", _WHY, _HELP,
)  # fmt: skip
