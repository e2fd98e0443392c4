"""results/gpu.md from the records of benchmarks.gpu.run: tables, and every target with the measured figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.gpu import tables
from benchmarks.record import table

Record = dict[str, Any]
OURS, COMPILED, EAGER, FLASH = "rotary", "transformers under torch.compile", "transformers", "flash-attention"
FORMULA, OPERATOR = "rotary under torch.compile", "rotary's operator under torch.compile"
# Not compared: our formula under the compiler is this library too, not a peer.
NOT_PEERS = (OURS, FORMULA, OPERATOR)
LARGE = (4096, 32768, 131072)  # tokens
SMALL = 256


def report(result: dict[str, Any]) -> str:
    records: list[Record] = result["records"]
    bandwidth = sorted(result["bandwidth"])[len(result["bandwidth"]) // 2]
    low, high = min(result["bandwidth"]), max(result["bandwidth"])
    copies = ", ".join(f"{name}: {time[0]:.1f} us" for name, time in result["copies"].items())
    absent = "\n".join(f"- {name}: {why}" for name, why in result["absent"].items()) or "- none"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        f"""# Rotation on a GPU

`python -m benchmarks.gpu.run`, {result["device"]}, {versions}, commit {result["commit"]}. {result["dtype"]}, head_dim {result["head_dim"]}.
Microseconds for queries and keys together, medians over replays of CUDA graphs; in brackets the share of the bandwidth of the fastest large
copy in the same run, {bandwidth / 1e12:.2f} TB/s read and written ({low / 1e12:.2f} to {high / 1e12:.2f}),
queries and keys counted once read and once written, tables not counted. Shape: batch x tokens. Copies of the same bytes, cold:
{copies}.

Peers that were not there:

{absent}

## Time of each peer over that of rotary, cold: least to most over heads, pairings and lengths

{summary(records, result["copies"])}

## Targets

{targets(result)}"""
    ]
    for heads in _values(records, "heads"):
        for mode in _values(records, "mode"):
            some = [r for r in records if r["heads"] == heads and r["mode"] == mode]
            for state in ("cold", "warm"):
                parts.append(
                    f"## {heads} heads, {mode}, {state}\n\n{times(some, lambda r, state=state: _shown(r, state, bandwidth))}"
                )
    parts.append(f"## Under torch.compile: time of the formula over that of the operator\n\n{spellings(records)}")
    parts.append(f"## Host time of one call [us], and launches\n\n{hosts(records)}")
    if "tables" in result:
        parts.append(tables.report(result["tables"]))
    return "\n\n".join(parts)


def times(records: list[Record], show: Callable[[Record], str]) -> str:
    """A row per shape and pairing, a column per peer."""
    peers = _values(records, "peer")
    rows: list[list[str]] = []
    for shape in _values(records, "shape", _shape):
        for interleaved in (False, True):
            result = {r["peer"]: r for r in records if _shape(r) == shape and r["interleaved"] == interleaved}
            if result:
                name = f"{shape}, {'interleaved' if interleaved else 'half'}"
                rows.append([name, *(show(result[peer]) if peer in result else "" for peer in peers)])
    return table(["", *peers], rows)


def summary(records: list[Record], copies: dict[str, Any]) -> str:
    """A row per peer and range of tokens, a column per mode; then a copy of the same bytes, a row per shape."""
    modes = _values(records, "mode")
    ranges = {
        "1 to 256 tokens": lambda r: _tokens(r) <= SMALL,
        "4,096 to 131,072 tokens": lambda r: _tokens(r) in LARGE,
    }
    rows: list[list[str]] = []
    for span, within in ranges.items():
        for peer in _values(records, "peer"):
            if peer in NOT_PEERS:
                continue
            cells: list[str] = []
            for mode in modes:
                some = [r for r in records if within(r) and r["mode"] == mode and "cold" in r]
                result = list(_ratios(some, peer, states=("cold",)))
                cells.append(f"{min(result):.2f} to {max(result):.2f}" if result else "")
            if any(cells):
                rows.append([f"{peer}, {span}", *cells])
    for where, copy in copies.items():
        cells = []
        for mode in modes:
            ours = [r for r in records if r["peer"] == OURS and r["mode"] == mode and "cold" in r]
            result = [copy[0] / r["cold"][0] for r in ours if f"{r['heads']} heads {_shape(r)}" == where]
            cells.append(f"{min(result):.2f} to {max(result):.2f}" if result else "")
        rows.append([f"a copy of the same bytes, {where}", *cells])
    return table(["", *modes], rows)


def spellings(records: list[Record]) -> str:
    """Where the fused formula or the operator around the kernel is faster: least and most over heads, pairings and states."""
    modes = _values(records, "mode")
    rows: list[list[str]] = []
    for shape in _values(records, "shape", _shape):
        cells: list[str] = []
        for mode in modes:
            some = [r for r in records if _shape(r) == shape and r["mode"] == mode and "cold" in r]
            result = list(_ratios(some, FORMULA, OPERATOR))
            cells.append(f"{min(result):.2f} to {max(result):.2f}" if result else "not measured")
        rows.append([shape, *cells])
    return table(["", *modes], rows)


def hosts(records: list[Record]) -> str:
    """Smallest shape of each mode: where the host is what a decoding step waits for."""
    rows: list[list[str]] = []
    for peer in _values(records, "peer"):
        for mode in _values(records, "mode"):
            for r in records:
                if r["peer"] == peer and r["mode"] == mode and "host" in r and not r["interleaved"]:
                    rows.append(
                        [f"{peer}, {mode}, {r['heads']}, {_shape(r)}", f"{r['host'][0]:.1f}", f"{r['launches'] or '-'}"]
                    )
                    break
    return table(["", "host", "launches"], rows)


def targets(result: dict[str, Any]) -> str:
    """What was promised, the worst that was measured for it, and whether that is enough."""
    records = [r for r in result["records"] if "cold" in r]
    bandwidth = sorted(result["bandwidth"])[len(result["bandwidth"]) // 2]
    ours = [r for r in records if r["peer"] == OURS]
    rows: list[list[str]] = []

    def row(
        name: str, found: Iterable[float], good: Callable[[float], bool], form: str, worst: Callable[..., float]
    ) -> None:
        values = list(found)
        if not values:
            rows.append([name, "not measured", ""])
        else:
            rows.append([name, format(worst(values), form), "yes" if good(worst(values)) else "NO"])

    def shares(heads: str, mode: str) -> list[float]:
        large = [r for r in ours if r["heads"] == heads and r["mode"] == mode and _tokens(r) in LARGE]
        return [_share(r, "cold", bandwidth) for r in large]

    for mode in _values(records, "mode"):
        row(
            f"{mode}, 32 + 8 heads, 4k to 128k: share of copy >= 90 %",
            shares("32 + 8", mode),
            lambda v: v >= 0.90,
            ".1%",
            min,
        )
        row(
            f"{mode}, 4 + 1 heads, 4k to 128k: share of copy >= 85 %",
            shares("4 + 1", mode),
            lambda v: v >= 0.85,
            ".1%",
            min,
        )
    for heads in _values(records, "heads"):
        large = [r for r in ours if r["heads"] == heads and _tokens(r) in LARGE]
        copies = [(result["copies"].get(f"{heads} heads {_shape(r)}"), r) for r in large]
        row(
            f"{heads} heads, 4k to 128k: time of a copy of the same bytes over ours >= 0.9",
            (copy[0] / r["cold"][0] for copy, r in copies if copy),
            lambda v: v >= 0.9,
            ".2f",
            min,
        )
    for peer in _values(records, "peer"):
        if peer not in NOT_PEERS:
            row(f"faster than {peer} everywhere", _ratios(records, peer), lambda v: v > 1.0, ".2f", min)
    at_32k = [r for r in records if _tokens(r) == 32768]
    row("32k: >= 1.5 x torch.compile", _ratios(at_32k, COMPILED), lambda v: v >= 1.5, ".2f", min)
    row("32k: >= 8 x eager", _ratios(at_32k, EAGER), lambda v: v >= 8, ".2f", min)
    row("launches for q and k", (r["launches"] for r in ours if r["launches"]), lambda v: v == 1, ".0f", max)
    host = [r["host"][0] for r in ours if "host" in r and r["mode"] != "backward"]
    row("host time of a call <= 15 us", host, lambda v: v <= 15, ".1f", max)
    flash = [r["host"][0] for r in records if r["peer"] == FLASH and "host" in r and r["mode"] != "backward"]
    gaps = [min(flash) - max(host)] if flash and host else []
    row("host time below flash-attention's two calls, by [us]", gaps, lambda v: v > 0, ".1f", min)
    return table(["target", "worst measured", "met"], rows)


def _ratios(
    records: list[Record], peer: str, over: str = OURS, states: tuple[str, ...] = ("cold", "warm")
) -> Iterable[float]:
    """Time of the peer over that of ours, per case and state of the cache."""
    ours = {_case(r): r for r in records if r["peer"] == over}
    for r in records:
        if r["peer"] == peer and _case(r) in ours:
            for state in states:
                yield r[state][0] / ours[_case(r)][state][0]


def _share(record: Record, state: str, bandwidth: float) -> float:
    return record["bytes"] / (record[state][0] * 1e-6) / bandwidth


def _shown(record: Record, state: str, bandwidth: float) -> str:
    if state not in record:
        return record.get("none", "")
    share = f" ({_share(record, state, bandwidth):.0%})" if _tokens(record) in LARGE else ""
    return f"{record[state][0]:.2f}{share}"


def _case(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("heads", "batch", "seq", "interleaved", "mode"))


def _tokens(record: Record) -> int:
    return record["batch"] * record["seq"]


def _shape(record: Record) -> str:
    return f"{record['batch']} x {record['seq']}"


def _values(records: list[Record], key: str, of: Callable[[Record], Any] | None = None) -> list[Any]:
    """Distinct values in order of appearance."""
    return list(dict.fromkeys(of(r) if of else r[key] for r in records))
