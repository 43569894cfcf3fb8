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
at the widths of Llama-3-8B on 64 tokens on the emulated device and counts: the counts are exact.

- *asked*: bytes that threads load and store, and how many times what they must: every operand once, but what all rows
  share, as a norm's weight, once for each block. A product of matrices reads its operands once for each tile.
- *sectors*: bytes moved, in sectors of 32, for each asked: 1 where every access is coalesced.
- *excess*: passes through the banks of shared memory beyond the least.
- *mma*: operations of `mma.sync`, and its share of the kernel's instructions of these kinds: `mma`, `ldmatrix`, loads and stores of
  shared memory, `cp.async` and barriers.
- *warps*: how many of a multiprocessor's warps are there at once, by registers, shared memory and threads
  (`docs/kernel-budget.md`).
- *GPU*: as `scripts/gpu_check.sh` measures it on 8192 tokens.
"""


def profile():
    """The launches that the emulated device counted."""
    command = ["cargo", "run", "--quiet", "--bin", "vicugna", "--", "kernels", "profile", "--json"]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output)["launches"]


def occupancy():
    """Of each kernel, its warps on sm_80 and on sm_90, as `40/64`."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (ROOT / "docs/kernel-budget.md").read_text().splitlines() if line.startswith("|")]
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
    loop = sum(of[kind] for kind in ("mma", "ldmatrix", "shared_load", "shared_store", "async_copy", "barrier"))
    return f"{short(counters['mma_operations'])}, {of['mma'] / loop:.2f}" if of["mma"] else ""


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
    return "\n".join([HEAD, *table(columns, counts), "", *measured(gpu)]) + "\n"


def table(columns, rows):
    """Markdown, everything but the first column to the right."""
    line = lambda cells: "| " + " | ".join(cells) + " |"
    return [line(columns), "|---" + "|--:" * (len(columns) - 1) + "|", *map(line, rows)]


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
