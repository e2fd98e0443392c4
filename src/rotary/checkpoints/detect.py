"""Detect the pairing of a checkpoint from its weights, or from its loss on a text; the answer may be "unknown".

By weights. In a trained model the two channels of a plane, which have the same frequency, have weight rows of similar norm, and planes
of different frequencies have different norms. So the log norms of the channels of a head repeat after half a head in half pairing, and
are similar in neighbours in interleaved pairing; in random weights they do neither. The measure is the intraclass correlation of the
two channels of a plane under each pairing, 1 if their norms are equal.

By a text. The family's code computes the loss of each token twice, with the weights as they are and with reordered weights. The
difference tells the pairing, because a trained model fails on wrongly paired weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import _checks
from .convert import find_config
from .layout import Layout, RotatedTensor
from .source import read_source

MIN_STANDARD_ERRORS = 4.0
"""With a confidence below this the pairing is unknown."""
MIN_CORRELATION, MIN_LOSS_DIFFERENCE = 0.2, 0.02
"""With an effect below these (of the weights; of the loss [nat/token]) it is unknown too: in an untrained model a tiny effect may be
significant by chance."""
MIN_WEIGHTS, BLOCKS = 8, 16


@dataclass(frozen=True)
class Verdict:
    """The detected pairing.

    confidence: standard errors between this pairing and the other one; below 4 the pairing is unknown.
    why: the measured numbers, in words.
    """

    pairing: Literal["half", "interleaved", "unknown"]
    confidence: float
    why: str


def by_weights(source: str | os.PathLike[str], *, config: Any = None, like: str | None = None) -> Verdict:
    """The pairing of a checkpoint, detected from the norms of its query and key rows, one tensor at a time, without a model.

    source, config, like: as in convert(). Training makes the norms of planes differ, which this measures: the pairing of untrained and
    hardly trained models is "unknown". ValueError or TypeError for a source, config or family that cannot be read, and for weights that
    are not finite.
    """
    source = _checks.path("source", source)
    layout = Layout(find_config(source) if config is None else config, like=like)
    in_halves: list[float] = []
    in_neighbours: list[float] = []
    for file in read_source(source, layout.config).files:
        for entry in file.entries:
            tensor = layout.rotated(entry.name, entry.shape)
            if tensor is None or tensor.effect != "weight" or len(entry.shape) != 2:
                continue
            for heads in tensor.rows.values():
                spans = [slice(int(rows[0]), int(rows[-1]) + 1) for rows in heads]
                correlations = [_correlations(file.float64_rows(entry, span)) for span in spans]
                in_halves.append(sum(half for half, _ in correlations) / len(correlations))
                in_neighbours.append(sum(neighbours for _, neighbours in correlations) / len(correlations))
    if len(in_halves) < MIN_WEIGHTS:
        return Verdict("unknown", 0.0, f"{len(in_halves)} weights of queries or keys, but {MIN_WEIGHTS} are needed")
    half, neighbours = torch.tensor(in_halves), torch.tensor(in_neighbours)
    why = f"correlation of norms half a head apart {half.mean():.2f}, of neighbours {neighbours.mean():.2f}, over {len(half)} weights"
    # Frequencies change little from plane to plane, so neighbours correlate somewhat under either pairing, channels half a head apart
    # only if they are the pairs: interleaved needs a correlation of neighbours that exceeds the other.
    for pairing, score in (("half", half), ("interleaved", torch.minimum(neighbours, neighbours - half))):
        if _standard_errors(score) >= MIN_STANDARD_ERRORS and float(score.mean()) >= MIN_CORRELATION:
            return Verdict(pairing, _standard_errors(score), why)  # type: ignore[arg-type]
    return Verdict("unknown", max(0.0, _standard_errors(half), _standard_errors(neighbours)), why)


def _correlations(rows: Tensor) -> tuple[float, float]:
    """Correlations of the log norms of one head's rows (dim, columns): (half a head apart, of neighbours)."""
    norms, planes = rows.norm(dim=1).clamp(min=1e-30).log(), len(rows) // 2
    return (
        intraclass_correlation(norms[:planes], norms[planes:]),
        intraclass_correlation(norms[::2], norms[1::2]),
    )


def _standard_errors(values: Tensor) -> float:
    """The mean of the values in units of its standard error."""
    return float(values.mean() / (values.std() / len(values) ** 0.5).clamp(min=1e-6))


def intraclass_correlation(a: Tensor, b: Tensor) -> float:
    """Of pairs (a[i], b[i]): 1 if both are equal in each pair, about 0 if they are unrelated."""
    both = torch.stack((a, b)).double()
    return 1.0 - float((both[0] - both[1]).square().mean() / (2 * both.var(correction=0)).clamp(min=1e-30))


def by_text(model: nn.Module, tokens: Tensor, *, config: Any = None, like: str | None = None) -> Verdict:
    """The pairing of a loaded causal model of transformers, detected from its losses on a text with and without reordered weights.

    model: a model that rotates by its family's own code. tokens: (batch, seq) integers, a few hundred of a text like those that it was
        trained on. config: by default the model's own. like: as in convert().
    The weights are reordered in place and restored, with the same bits. ValueError or TypeError for a config, family, model or tokens that
    do not fit, and for a loss that is not finite.
    """
    _checks.module("model", model)
    tokens = _checked_tokens(tokens)
    layout = Layout(getattr(model, "config", None) if config is None else config, like=like)
    code_pairing = "interleaved" if layout.interleaved else "half"
    other_pairing = "half" if code_pairing == "interleaved" else "interleaved"
    loss = _losses(model, tokens)
    if not loss.isfinite().all():
        raise ValueError(
            f"the model's loss is NaN or infinite at {int((~loss.isfinite()).sum())} of {loss.numel()} tokens; load it in float32, and if "
            f"that does not help, its weights are damaged"
        )
    rotated = list(_rotated_parameters(model, layout))
    originals = [parameter.data for parameter, _ in rotated]
    try:
        for parameter, tensor in rotated:
            rows = parameter.data.view(-1, 1) if tensor.flat else parameter.data
            parameter.data = rows[tensor.order(rows.shape[0], code_pairing)].view(parameter.shape)
        reordered_loss = _losses(model, tokens)
    finally:
        for (parameter, _), data in zip(rotated, originals, strict=True):
            parameter.data = data
    increase = (reordered_loss - loss).double()
    why = f"loss {loss.mean():.4f} as {code_pairing}, {reordered_loss.mean():.4f} as {other_pairing}, over {increase.numel()} tokens"
    if increase.numel() < 4 * BLOCKS:
        return Verdict("unknown", 0.0, f"{why}; {4 * BLOCKS} are needed")
    if not increase.isfinite().all():
        return Verdict("unknown", 0.0, f"{why}; the second is not finite: load the model in float32")
    # Losses of neighbouring tokens are correlated; means of blocks are nearly independent.
    errors = _standard_errors(torch.stack([block.mean() for block in increase.chunk(BLOCKS)]))
    if abs(errors) < MIN_STANDARD_ERRORS or abs(float(increase.mean())) < MIN_LOSS_DIFFERENCE:
        return Verdict("unknown", abs(errors), why)
    return Verdict(code_pairing if errors > 0 else other_pairing, abs(errors), why)


def _rotated_parameters(model: nn.Module, layout: Layout) -> Iterable[tuple[nn.Parameter, RotatedTensor]]:
    for name, parameter in model.named_parameters():
        tensor = layout.rotated(name, tuple(parameter.shape))
        if tensor is not None:
            yield parameter, tensor


def _checked_tokens(tokens: Any) -> Tensor:
    """The tokens as int64, the one dtype that every model and loss takes."""
    shape = _checks.tensor("tokens", tokens, "an integer tensor (batch, seq)").shape
    _checks.integers("tokens", tokens)
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2:
        raise ValueError(f"tokens must have shape (batch, seq), with two tokens or more in a row, got {tuple(shape)}")
    return tokens.long()


def _losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """(n,) float32: the loss [nat] of each token except the first of its row."""
    _check_vocabulary(tokens, _embedding_rows(model), "rows of its embedding")
    with torch.no_grad():
        output = model(tokens)
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        result = f"{type(output).__name__} without logits" if logits is None else _checks.describe(logits)
        raise ValueError(
            f"model must be a causal model that returns logits (batch, seq, vocab), here ({tokens.shape[0]}, {tokens.shape[1]}, vocab); "
            f"{type(model).__name__} returns {result}: load it by AutoModelForCausalLM"
        )
    _check_vocabulary(tokens, logits.shape[-1], "width of its logits")
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")


def _embedding_rows(model: Any) -> int | None:
    """How many tokens the model's embedding has, None if the model does not tell."""
    try:
        return model.get_input_embeddings().num_embeddings
    except (AttributeError, NotImplementedError):
        return None


def _check_vocabulary(tokens: Tensor, size: int | None, what: str) -> None:
    if size is not None and (int(tokens.min()) < 0 or int(tokens.max()) >= size):
        raise ValueError(
            f"tokens must be numbers of the model's vocabulary, from 0 to {size - 1} by the {what}; are they of its own tokenizer, without "
            f"padding?"
        )
