"""Encoders as torch modules: built from safetensors or a configuration, and their parts found by structure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from luban.errors import LubanError, MissingExtra, install

if TYPE_CHECKING:
    import torch

    from luban.models.facts import BaseFolder

log = logging.getLogger(__name__)

TRUST_REMOTE_CODE = False
"""Code that comes with a model is never run. There is no setting for it."""

_DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "embedding_dropout",
    "mlp_dropout",
)  # fmt: skip
_NOT_IN_JSON = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "auto_map",
    "_attn_implementation_autoset",
)
_NOT_OURS = re.compile(r"(^|\.)(pooler|position_ids)(\.|$)")


def load_body(base: BaseFolder, dropout: float | None = None) -> torch.nn.Module:
    """Return a base's encoder in fp32, in evaluation mode, with no pooler.

    Call it as `body(input_ids=..., attention_mask=...)`, both (B, L); `.last_hidden_state` is (B, L, width).

    Args:
        base: a verified folder; nothing is fetched.
        dropout: probability of dropout in all its layers; None leaves the base's own.

    Raises:
        LubanError: the base is no encoder that transformers has code for, or its weights don't fit its configuration.
        MissingExtra: torch or transformers is not installed.
    """
    with _quiet():
        import torch

        config = _config(base.folder / "config.json", dropout)
        kind = _encoder_class(config, base.facts.name)
        try:
            body, loaded = kind.from_pretrained(
                base.folder, config=config, local_files_only=True, trust_remote_code=TRUST_REMOTE_CODE,
                use_safetensors=True, dtype=torch.float32, attn_implementation=_attention(kind),
                output_loading_info=True, **_no_pooler(kind),
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise LubanError(
                f"the weights of the base {base.facts.name!r} can't be loaded from {base.folder}: {reason}",
                hint="its config.json and its weights must belong together; fetch or copy the folder again",
            ) from error
    _check_keys(base, body, loaded)
    module: torch.nn.Module = body.eval()
    return module


def body_from_config(value: Mapping[str, Any]) -> torch.nn.Module:
    """Return an encoder with random weights from what `body_to_json` returned, to load weights into.

    Raises:
        LubanError: the configuration is not one of an encoder.
    """
    with _quiet():
        from transformers import AutoConfig
        from transformers.initialization import no_init_weights

        from luban.models import shapes

        given = {key: part for key, part in value.items() if key not in (*_NOT_IN_JSON, "model_type", shapes.KEY)}
        try:
            config = AutoConfig.for_model(str(value.get("model_type")), **given)
            kind = _encoder_class(config, str(value.get("model_type")))
            with no_init_weights():
                body: torch.nn.Module = kind._from_config(
                    config, attn_implementation=_attention(kind), **_no_pooler(kind)
                )
                shapes.put(body, value.get(shapes.KEY, {}))
        except LubanError:
            raise
        except Exception as error:  # transformers checks each family's settings in its own way, with errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LubanError(f"not the configuration of an encoder: {reason}", hint="restore body.json") from error
    return body.eval()


def body_to_json(body: torch.nn.Module) -> dict[str, Any]:
    """Return the configuration of a body as JSON values, free of paths and versions: equal bodies, equal bytes.

    Layers of shapes that no configuration tells, as compression makes them, stand under a key of their own.
    """
    from luban.models import shapes

    config: Any = body.config
    given: dict[str, Any] = config.to_diff_dict()
    kept = {key: given[key] for key in sorted(given) if key not in _NOT_IN_JSON}
    found = shapes.of(body)
    return {"model_type": config.model_type, **kept, **({shapes.KEY: found} if found else {})}


def layers(body: torch.nn.Module) -> list[torch.nn.Module]:
    """Return a body's layers, lowest first.

    Raises:
        LubanError: no list of as many layers as the configuration tells is in it.
    """
    import torch

    wanted = int(body.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    lists = [module for module in body.modules() if isinstance(module, torch.nn.ModuleList)]
    for found in lists:  # modules() goes from the outside in, so that the layers come before lists within them
        if len(found) == wanted:
            return list(found)
    if len(lists) > 0 and hasattr(body.config, "num_hidden_groups"):  # ALBERT: the same few layers again and again
        return list(lists[0])
    raise LubanError(f"{type(body).__name__} has no list of {wanted} layers", hint="use a base of another family")


def embeddings(body: torch.nn.Module) -> torch.nn.Module:
    """Return the module that turns token ids (B, L) into vectors (B, L, width): words, positions, types, norm."""
    words = body.get_input_embeddings()  # type: ignore[operator]
    for child in body.children():
        if any(module is words for module in child.modules()):
            return child
    raise LubanError(f"{type(body).__name__} has no embeddings", hint="use a base of another family")


def words(body: torch.nn.Module) -> torch.nn.Embedding:
    """Return the matrix of token vectors, (vocabulary, width)."""
    matrix: torch.nn.Embedding = body.get_input_embeddings()  # type: ignore[operator]
    return matrix


def _config(path: Any, dropout: float | None) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=TRUST_REMOTE_CODE)
    except Exception as error:  # transformers checks each family's settings in its own way, with errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LubanError(
            f"{path} is of no model that the installed transformers has code for: {reason}",
            hint="code that comes with a model is never run; choose another base, or a newer transformers",
        ) from error
    if dropout is not None:
        for name in _DROPOUTS:
            if hasattr(config, name):
                setattr(config, name, dropout)
    return config


def _encoder_class(config: Any, name: str) -> Any:
    """Return transformers' class of a body that was trained to fill in masked tokens, so that it sees both sides."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING

    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_encoder_decoder", False)
    if not encoder or getattr(config, "is_decoder", False) or type(config) not in MODEL_MAPPING:
        raise LubanError(
            f"the base {name!r} is a {config.model_type} model, which is no encoder of text",
            hint="choose an encoder, e.g. a BERT, RoBERTa, MPNet, DeBERTa or ModernBERT; `luban bases` lists some",
        )
    return MODEL_MAPPING[type(config)]


def _attention(kind: Any) -> str:
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def _no_pooler(kind: Any) -> dict[str, bool]:
    import inspect

    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def _check_keys(base: BaseFolder, body: torch.nn.Module, loaded: Mapping[str, Any]) -> None:
    """Refuse weights that leave a part of the body random, or that hold layers which the body lacks."""
    missing = sorted(key for key in loaded["missing_keys"] if not _NOT_OURS.search(key))
    mine = tuple(f"{name}." for name, _ in body.named_children())
    prefix = f"{getattr(body, 'base_model_prefix', '')}."
    extra = sorted(
        key
        for key in loaded["unexpected_keys"]
        if key.removeprefix(prefix).startswith(mine) and not _NOT_OURS.search(key)
    )
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in loaded.get("mismatched_keys", ()))
    for keys, what in ((missing, "lack"), (wrong, "have other shapes for"), (extra, "hold, beyond the configuration,")):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise LubanError(
                f"the weights of the base {base.facts.name!r} {what} {', '.join(keys[:3])}{more} ({base.folder})",
                hint="its config.json and its weights must belong together; fetch or copy the folder again",
            )
    if left := [key for key in loaded["unexpected_keys"] if key not in extra]:
        log.debug("heads of %s that are not used: %s", base.facts.name, ", ".join(sorted(left)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' warnings and progress bars away while the block runs."""
    try:
        from transformers.utils import logging as transformers_logging
    except ModuleNotFoundError as error:
        raise MissingExtra("training needs torch and transformers, which are not installed",
                           hint=install("train")) from error  # fmt: skip
    theirs: Any = transformers_logging
    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()
