"""The health page as HTML: one file without scripts, that works in the light, in the dark, and on a phone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from mlguard.clock import duration_text, size_text

__all__ = ["HEADERS", "render"]

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b646d; --line: #d9dee3; --card: #fff; --back: #f4f6f8;
  --good: #1a7f45; --bad: #b3261e; --warn: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #9aa4ae; --line: #343b43; --card: #1d2227;
  --back: #14181c; --good: #5bc98a; --bad: #ff8a80; --warn: #f0b429; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem; background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: auto; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
p { margin: .25rem 0; color: var(--soft); overflow-wrap: anywhere; }
section, .figures > div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
section { padding: 1rem; margin-top: 1rem; }
.figures { display: grid; gap: .75rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.figures > div { padding: .5rem .75rem; background: var(--back); min-width: 0; overflow-wrap: anywhere; }
.figures span { display: block; color: var(--soft); font-size: .8rem; }
.figures small { display: block; color: var(--soft); }
.state { font-size: .85rem; font-weight: 600; padding: .1rem .6rem; border: 1px solid; border-radius: 1rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
details { margin-top: .75rem; } summary { cursor: pointer; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .85rem; margin-top: .5rem; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .2rem .5rem .2rem 0; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; font-weight: 400; }
th { color: var(--soft); width: 45%; }
td { font-variant-numeric: tabular-nums; }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Nothing is loaded and nothing runs, whatever a name on the page says."""


def render(report: Mapping[str, Any]) -> str:
    """The page of a report of `Health`."""
    process = report["process"]
    state = _state("ready", "good") if report["status"] == "ready" else _state("not ready", "bad")
    parts = [
        f"<h1>mlguard {state}</h1>",
        f"<p>Process {process['pid']}, child of {process['parent_pid']}, up for {_duration(process['uptime'])}, "
        f"mlguard {escape(process['mlguard'])}. Where several processes serve, each tells of itself only; "
        "reload to meet another.</p>",
        *(f"<p class=bad>{escape(reason)}</p>" for reason in report["reasons"]),
        f"<section><h2>process</h2>{_figures(_of_process(report))}</section>",
        *map(_function, report["functions"]),
    ]
    if not report["functions"]:
        parts.append("<section><p>No function is guarded in this process.</p></section>")
    return (
        '<!doctype html><html lang=en><head><meta charset=utf-8><title>mlguard</title><link rel=icon href="data:,">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>"
    )


def _state(text: str, colour: str) -> str:
    return f'<b class="state {colour}">{escape(text)}</b>'


def _figures(figures: Iterator[tuple[str, str, str, str]]) -> str:
    """A card for each: what it is, the figure, more about it, and its colour."""
    cards = [
        f'<div><span>{escape(name)}</span><b class="{colour}">{escape(value)}</b><small>{escape(more)}</small></div>'
        for name, value, more, colour in figures
    ]
    return f"<div class=figures>{''.join(cards)}</div>" if cards else ""


def _of_process(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    memory, requests = report["memory"], report["requests"]
    if memory is not None:
        share = memory["used"] / memory["limit"]
        of = f"{size_text(memory['used'])} of {size_text(memory['limit'])}, {memory['source']}"
        yield "memory", f"{share:.0%}", of, "bad" if share > 0.9 else ""
    answers = sum(requests["answers"].values())
    told = ", ".join(f"{count:,} x {name}" for name, count in requests["answers"].items())
    yield "errors answered", f"{answers:,}", told, ""
    if any(requests["deadlines"].values()):
        taken, *rest = requests["deadlines"].items()
        more = ", ".join(f"{count:,} {name}" for name, count in rest if count)
        yield "deadlines", f"{taken[1]:,}", more, ""
    if report["events_dropped"]:
        lost = sum(report["events_dropped"].values())
        more = ", ".join(f"{count:,} by {sink}" for sink, count in report["events_dropped"].items())
        yield "events dropped", f"{lost:,}", more, "bad" if lost else ""
    if requests["broken_streams"]:
        yield "broken streams", f"{requests['broken_streams']:,}", "failed after the first chunk", "warn"


def _function(told: Mapping[str, Any]) -> str:
    policy = f"policy {told['policy']}, " if told["policy"] else ""
    head = f"<h2>{escape(told['name'])}</h2><p>{escape(policy + told['kind'])}</p>"
    if "problem" in told:
        return f"<section>{head}<p class=bad>{escape(told['problem'])}</p></section>"
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _rows(told["stats"]))
    table = f"<details><summary>All counts</summary><table>{rows}</table></details>"
    return f"<section>{head}{_figures(_key_figures(told['stats']))}{table}</section>"


def _key_figures(stats: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    if "monitor" in stats:
        yield from _monitor(stats["monitor"])
    if "breaker" in stats:
        yield _breaker(stats["breaker"])
    if "concurrency" in stats:
        yield _concurrency(stats["concurrency"])
    if (cache := stats.get("cache")) is not None and "hit_rate" in cache:
        rate = "none yet" if cache["hit_rate"] is None else f"{cache['hit_rate']:.0%} hits"
        yield "cache", rate, f"{cache['entries']:,} results, {size_text(cache['bytes'])}", ""
    if (memory := stats.get("memory")) is not None:
        kept = f"{size_text(memory['reserved'])} promised" if memory.get("reserved") else "nothing promised"
        refused = memory["rejected"]
        yield "memory", f"{refused:,} refused", f"{kept}, {memory['waiting']:,} waiting", "warn" if refused else ""
    if (drift := stats.get("drift")) is not None:
        active = ", ".join(drift["active"])
        rows = f"{drift['rows']:,} rows seen"
        yield "drift", active or "none", rows, "warn" if active else "good"


def _monitor(monitor: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    calls = monitor["calls"]
    failed = calls.get("failed", 0)
    others = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in calls.items() if name != "executed")
    yield "calls", f"{sum(calls.values()):,}", others, "warn" if failed else ""
    executed = monitor["duration"].get("executed")
    if executed is not None:
        yield "median time", _duration(executed["p50"]), f"99%: {_duration(executed['p99'])}", ""
    lost = monitor["instrumentation_errors"]
    if lost or monitor["suppressed"]:
        last = monitor["last_instrumentation_error"] or ""
        yield "events", f"{lost:,} lost", f"{monitor['suppressed']:,} left out on purpose {last}", "bad" if lost else ""


def _breaker(breaker: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if "state" not in breaker:
        states = ", ".join(f"{count} {state}" for state, count in breaker.get("last_used", {}).items())
        return "breaker", f"{breaker['values']:,} of them", states, "warn" if "open" in states else ""
    state = breaker["state"].replace("_", "-")
    since = f"for {_duration(breaker['seconds_in_state'])}, {breaker['refused']:,} refused"
    return "breaker", state, since, "good" if state == "closed" else "bad"


def _concurrency(slots: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if "in_use" not in slots:
        return "slots", f"{slots['values']:,} lines", f"by {slots['per']}", ""
    refused = slots["refused_queue_full"] + slots["refused_after_wait"]
    more = f"{slots['waiting']:,} waiting, {refused:,} refused"
    full = slots["in_use"] >= slots["max_concurrent"]
    return "slots in use", f"{slots['in_use']:,} of {slots['max_concurrent']:,}", more, "warn" if full else ""


def _rows(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every count under its dotted path."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _rows(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, "none" if value in (None, {}, []) else f"{value:,}" if isinstance(value, int) else str(value)


def _duration(seconds: float) -> str:
    if seconds >= 86_400:
        return f"{seconds / 86_400:.1f} days"
    if seconds >= 3_600:
        return f"{seconds / 3_600:.1f} hours"
    return duration_text(float(f"{seconds:.3g}"))
