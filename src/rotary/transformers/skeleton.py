"""skeleton(): a model without weights, built on the meta device from its config, except for its rotary modules."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .measured import holders


def skeleton(config: Any) -> nn.Module:
    """A model of transformers on the meta device, except for its rotary modules, which are made again on the CPU.

    config: a config object of transformers, or the path of a config.json or of its folder. No code from the folder is run, nothing is
        downloaded.

    The class is that of config.architectures, or else the plain model of the config. Rotary modules whose class takes more arguments than
    a config stay on the meta device. ValueError without transformers, and for a config of which transformers builds no model.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError("building a model needs transformers: pip install 'rotary[transformers]'") from None
    try:
        if not hasattr(config, "to_dict"):
            config = transformers.AutoConfig.from_pretrained(config, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: nn.Module = _class_of(config, transformers)(config)
    except Exception as error:  # the model's code may raise anything
        line = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"transformers does not build a model of this config: {line}") from None
    for path in dict.fromkeys(rotary.path for rotary in holders(model)):
        _make_real(model, path)
    return model


def _class_of(config: Any, transformers: Any) -> Any:
    names: list[str] = getattr(config, "architectures", None) or []
    classes = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    return classes[0] if classes else transformers.AutoModel.from_config


def _make_real(model: nn.Module, path: str) -> None:
    """Replace a module on the meta device by one on the CPU, if its class takes a config and nothing else."""
    rotary_class: Any = type(model.get_submodule(path))
    parameters = inspect.signature(rotary_class.__init__).parameters
    required = [name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if required != ["self", "config"] or not path:
        return
    around = [path.rsplit(".", n)[0] for n in range(path.count(".") + 1)] + [""]
    configs = [getattr(model.get_submodule(name), "config", None) for name in around]
    for config in (config for config in configs if config is not None):
        try:
            rotary = rotary_class(config)
        except Exception:  # the model's code may raise anything, and the config may be that of another part
            continue
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, rotary)
        return
