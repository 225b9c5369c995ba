"""Files of tensors, .pt and .safetensors, as NumPy arrays with their metadata; the latter needs no torch."""
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from typing import Any, Mapping

import numpy as np

from spp.atomic import replacing
from spp.convert.extras import need
from spp.errors import ConvertError

ENDINGS = (".pt", ".pth", ".safetensors")
KEY = "caffe"       # the key of the metadata


def read(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a file and the metadata that `write` stored there ({} if there is none).

    A .pt contains a state_dict, or a checkpoint with one under "state_dict". Halves become float32. Raises
    ConvertError for a file that is missing or damaged, or contains something else.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConvertError(f"cannot read {path}: {error.strerror}; check the path") from error
    return _read_safetensors(path) if path.endswith(".safetensors") else _read_torch(path)


def write(path: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata in the format of the path's extension; the file appears complete or not at all."""
    text = json.dumps(metadata, sort_keys=True)
    with replacing(path, ConvertError) as temporary:
        if path.endswith(".safetensors"):
            need("safetensors", "torch")
            from safetensors.numpy import save_file
            with open(temporary, "wb"):
                mode = os.stat(temporary).st_mode
            save_file(dict(arrays), temporary, {"format": "pt", KEY: text})
            os.chmod(temporary, mode)       # safetensors makes its files readable by the user only
        else:
            torch = need("torch", "torch")
            state: Any = OrderedDict((key, torch.from_numpy(np.array(array))) for key, array in arrays.items())
            state._metadata = OrderedDict([("", {"version": 1}), (KEY, text)])      # load_state_dict ignores our key
            torch.save(state, temporary)


def _read_safetensors(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    need("safetensors", "torch")
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="np") as file:
            metadata = _metadata((file.metadata() or {}).get(KEY), path)
            arrays = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, TypeError, KeyError) as error:
        raise ConvertError(f"{path}: no safetensors file of float16, float32 or float64 weights: {error}") from error
    return {key: array.astype(np.float32) if array.dtype == np.float16 else array
            for key, array in arrays.items()}, metadata


def _read_torch(path: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    torch = need("torch", "torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ConvertError(f"{path}: contains other things than tensors, or is damaged; save the module's "
                           f"state_dict() with torch.save ({str(error).splitlines()[0]})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConvertError(f"{path}: contains no state_dict; save the module's state_dict() with torch.save")
    halves = (torch.float16, torch.bfloat16)
    arrays = {key: (value.float() if value.dtype in halves else value).detach().numpy()
              for key, value in state.items()}
    return arrays, _metadata(getattr(state, "_metadata", {}).get(KEY), path)


def _metadata(text: Any, path: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text) if text else {}
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ConvertError(f"{path}: its metadata {KEY!r} is damaged; convert the weights again, or remove it")
    return metadata
