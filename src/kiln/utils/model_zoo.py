"""The older place of `kiln.hub`'s downloads."""

from ..hub import _download_url_to_file as _download_url_to_file
from ..hub import load_state_dict_from_url

load_url = load_state_dict_from_url
__all__ = ["load_state_dict_from_url", "load_url"]
