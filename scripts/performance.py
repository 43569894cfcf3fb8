"""Writes docs/performance.md: what each kernel does, as the emulator counts it, what it takes (docs/kernel-budget.md), and
how fast a GPU was, where docs/gpu_check.json is: the one that scripts/gpu_check.sh wrote there.

    scripts/performance.py            writes it
    scripts/performance.py --check    compares it with what it would write
"""

import difflib
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/performance.md"
MEASURED = ROOT / "docs/gpu_check.json"

HEAD = """# What the kernels cost

Written by `scripts/performance.py`; CI compares it. Each line is a launch of `vicugna kernels profile`, which runs every op
at the widths of Llama-3-8B on 64 tokens on the emulated device and counts: the counts are exact. In bf16, attention runs on
2048 tokens of two heads too, and matmul on 4096 rows of narrower matrices.

- *asked*: bytes that threads load and store, and how many times what they must: every operand once, but what all rows
  share, as a norm's weight, once for each block. A product of matrices reads its operands once for each tile.
- *sectors*: bytes moved, in sectors of 32, for each asked: 1 where every access is coalesced.
- *excess*: passes through the banks of shared memory beyond the least.
- *mma*: operations of `mma.sync`, and the instructions of PTX that a warp executes, of all kinds, for each of its `mma`;
  what the machine code has to one in its main loop is in `docs/kernel-budget.md`.
- *warps*: how many of a multiprocessor's warps are there at once, by registers, shared memory and threads
  (`docs/kernel-budget.md`).
- *GPU*: as `scripts/gpu_check.sh` measures it on 8192 tokens.
"""


def profile():
    """The launches that the emulated device counted."""
    return vicugna("profile")["launches"]


def vicugna(*arguments):
    """What `vicugna kernels` says."""
    command = ["cargo", "run", "--quiet", "--bin", "vicugna", "--", "kernels", *arguments, "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def occupancy():
    """Of each kernel, its warps on sm_80 and on sm_90, as `40/64`."""
    text = (ROOT / "docs/kernel-budget.md").read_text().split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    at = [rows[0].index(arch) for arch in ("sm_80", "sm_90")]
    return {row[0]: [row[i].split(": ")[-1].split()[0] for i in at] for row in rows[2:]}


def short(number):
    for unit in ("", " K", " M", " G"):
        if number < 10_000:
            return f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f} T"


def mma(counters):
    of = counters["instructions"]
    return f"{short(counters['mma_operations'])}, {of['total'] / of['mma']:.2f}" if of["mma"] else ""


def counted(launch, warps):
    """The cells of a launch that need no GPU."""
    counters = launch["counters"]
    asked = counters["global_load_bytes"] + counters["global_store_bytes"]
    moved = 32 * (counters["global_load_sectors"] + counters["global_store_sectors"])
    blocks = " x ".join(str(blocks) for blocks in launch["grid"] if blocks > 1) or "1"
    return [
        launch["op"],
        f"`{launch['kernel']}`",
        f"{blocks} of {launch['block']}",
        f"{short(asked)}, {asked / launch['compulsory_bytes']:.3f}",
        f"{moved / asked:.3f}",
        str(counters["shared_excess_wavefronts"]),
        mma(counters),
        *warps.get(launch["kernel"], ["", ""]),
    ]


def page():
    warps, gpu = occupancy(), json.loads(MEASURED.read_text()) if MEASURED.exists() else None
    times = {kernel["kernel"]: f"{kernel['milliseconds']:.4f}" for step in (gpu or {}).get("compared", []) for kernel in step.get("kernels", [])}
    columns = ["op", "kernel", "blocks", "asked", "sectors", "excess", "mma", "warps sm_80", "sm_90", "GPU, ms"]
    counts = [[*counted(launch, warps), times.get(launch["kernel"], "not measured")] for launch in profile()]
    return "\n".join([HEAD, *table(columns, counts), "", *modelled(), "", *measured(gpu)]) + "\n"


def table(columns, rows):
    """Markdown, everything but the first column to the right."""
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return [line(columns), "|---" + "|--:" * (len(columns) - 1) + "|", *map(line, rows)]


def modelled():
    """What a step takes by `vicugna kernels model`."""
    lines = ["## A model of a step", "", "Nothing here was timed. `vicugna kernels model` counts what each launch of a training step of Llama-3-8B does (4 sequences of",
             "2048 tokens, bf16, adapters of rank 8, dropout 0.05) and divides by what a GPU can do at most; it prints what it assumes.", ""]
    names = ["h100", "h200", "a100", "4090"]
    step = lambda targets: {gpu["gpu"]["name"]: gpu for gpu in vicugna("model", "--gpu", ",".join(names), "--target-modules", targets)["gpus"]}
    steps = [step("q_proj,v_proj"), step("all-linear")]
    cells = lambda gpu: [f"{gpu['milliseconds']:.0f}", f"{gpu['tokens_per_second'] / 1000:.1f} K"]
    decides = lambda gpu: ", ".join(f"`{kernel['kernel']}` {100_000 * kernel['seconds'] / gpu['milliseconds']:.0f} % ({kernel['limit']})" for kernel in gpu["kernels"][:3])
    rows = [[name, *cells(steps[0][name]), *cells(steps[1][name]), decides(steps[0][name])] for name in names]
    return [*lines, *table(["GPU", "q and v, ms", "tokens/s", "all seven, ms", "tokens/s", "most of q and v's, and what decides"], rows)]


def measured(gpu):
    """What a GPU took for each op, and PyTorch for the same, in the same run."""
    lines = ["## On a GPU", ""]
    if gpu is None:
        return [*lines, "Not measured yet: not in milliseconds, not as a share of the bandwidth of a copy, not beside cuBLAS and PyTorch.", "`scripts/gpu_check.sh` measures all three where there is a GPU (`docs/emulator.md`)."]
    cell = lambda value, digits=3: "" if value is None else f"{value:.{digits}f}"
    rows = []
    for row in gpu["compared"]:
        ours, theirs = row.get("milliseconds"), row["torch"]
        rate = "" if ours is None else f"{row['operations'] / ours / 1e9:.0f} TFLOP/s" if row["operations"] else f"{row['bytes'] / ours / 1e6:.0f} GB/s, {100 * row['share_of_copy']:.0f} %"
        rows.append([row["name"], row["dtype"], cell(ours), rate, cell(theirs), cell(theirs / ours, 2) if ours and theirs else ""])
    columns = ["op", "dtype", "ms", "rate, of a copy's", "PyTorch, ms", "PyTorch / vicugna"]
    return [*lines, f"{gpu['gpu']}, {gpu['rows']} tokens; a copy moves {gpu['copy_gb_per_s']:.0f} GB/s; PyTorch {gpu['torch']}, in the same run.", "", *table(columns, rows)]


def main():
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text)
        return
    old = PAGE.read_text() if PAGE.exists() else ""
    if old != text:
        sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), text.splitlines(True), "docs/performance.md", "now"))
        sys.exit("docs/performance.md is old: run scripts/performance.py")
    print("docs/performance.md is what the kernels do")


if __name__ == "__main__":
    main()
