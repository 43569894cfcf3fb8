"""Prints docs/kernel-budget.md: budget.py CU_FOLDER PTX_FOLDER PTXAS_FOLDER SASS_FOLDER. Called by build.sh."""

import re
import sys
from pathlib import Path

import sass

# Of a multiprocessor: warps, blocks, KiB of shared memory. All have 4 * 16384 registers, which a warp takes by 256 from
# one quarter; a block takes 1 KiB of shared memory beyond its own.
ARCHITECTURES = {
    "80": (64, 32, 164),
    "86": (48, 16, 100),
    "89": (48, 24, 100),
    "90": (64, 32, 228),
    "100": (64, 32, 228),
    "120": (48, 24, 100),
}
SHARED_LIMIT = 99 * 1024

HEAD = """# What the kernels take

Written by `cuda/build.sh` from what `ptxas` 13.0 reports; CI compares it. No kernel spills or has local memory: the
assembler is told to refuse. *Block* is the largest that a kernel may be launched with, *shared* the bytes of shared
memory it takes there. Under each architecture: registers a thread, then the warps that a multiprocessor holds at once of
those it could, and what keeps it from more.
"""

MAIN_LOOPS = """
## Main loops

Read from the machine code (`cuda/sass.py` says how). Of the innermost loop with the most tensor-core instructions (HMMA):
the instructions of one round of a warp over its HMMA, and as many for each HMMA; then the *cycles* of a round by the
compiler's own stall counts, for one warp alone, and the *gap*, the longest stretch of them without an HMMA; then, if there
are any, the loads from global or constant memory that the round's first HMMA comes after.
"""

LONE_LOADS = """
## Loads waited for alone

Of the loads from global memory in loops: how many are waited for with no other under way, each a round trip to memory that
nothing else shares. Where all architectures are alike there is one number; kernels without such loads are not here. A loop
over a grid that has as many threads as work goes round once.
"""


def blocks(ptx):
    """Kernel name -> threads of its largest block."""
    found = re.findall(r"\.visible \.entry (\w+)\(.*?\.maxntid (\d+), (\d+), (\d+)", ptx, re.S)
    return {name: int(x) * int(y) * int(z) for name, x, y, z in found}


def dynamic_shared(source):
    """Kernel name -> bytes, from lines `//   shared <kernel> <bytes>` of its launch contract."""
    return {name: int(size) for name, size in re.findall(r"^// +shared (\w+) (\d+)$", source, re.M)}


def usage(report):
    """Kernel name -> registers and bytes of static shared memory, from what ptxas -v says."""
    found = {}
    for line in report.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            name = entry[1]
        elif registers := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = (int(registers[1]), int(shared[1]) if shared else 0)
    return found


def residency(block, registers, shared, architecture):
    """Warps that are resident at once, and the limit that decides: threads where nothing else does."""
    warps, most_blocks, kib = ARCHITECTURES[architecture]
    block_warps = -(-block // 32)
    limits = {
        "threads": warps // block_warps,
        "blocks": most_blocks,
        "registers": 4 * (16384 // (-(-registers * 32 // 256) * 256)) // block_warps,
        "shared": kib * 1024 // (shared + 1024),
    }
    limit = min(limits, key=limits.get)
    resident = block_warps * limits[limit]
    return f"{registers}: {resident}/{warps}" + ("" if resident == warps else f" {limit}")


def rows(op, cu, ptx, ptxas):
    threads, dynamic = blocks((ptx / f"{op}.ptx").read_text()), dynamic_shared((cu / f"{op}.cu").read_text())
    used = {a: usage((ptxas / f"{op}.{a}").read_text()) for a in ARCHITECTURES}
    for name, block in threads.items():
        shared = max(used[a][name][1] for a in ARCHITECTURES) + dynamic.get(name, 0)
        if shared > SHARED_LIMIT:
            sys.exit(f"{name}: {shared} bytes of shared memory, above {SHARED_LIMIT}")
        cells = [residency(block, used[a][name][0], shared, a) for a in ARCHITECTURES]
        yield " | ".join([f"| {name}", str(block), str(shared), *cells]) + " |"


def main_loop(loop):
    if loop is None:
        return ""
    count, mma, cycles, gap, loads = loop
    return f"{count}/{mma} = {count / mma:.2f}, {cycles} cycles, gap {gap}" + (f", {loads} loads" if loads else "")


def loop_tables(ptx, folder):
    """The rows of the two tables of loops."""
    main_loops, lone_loads = [], []
    for op in sorted(path.stem for path in ptx.glob("*.ptx")):
        found = {a: sass.gauges((folder / f"{op}.{a}").read_text()) for a in ARCHITECTURES}
        text = (ptx / f"{op}.ptx").read_text()
        for name in blocks(text):
            of = [found[a][name] for a in ARCHITECTURES]
            multiplies = re.search(rf"\.entry {name}\(.*?\n}}", text, re.S)[0].count("mma.sync") > 0
            if any((loop is not None) != multiplies for loop, _ in of):
                sys.exit(f"{name}: its main loop is not found in its machine code, which cuda/sass.py cannot read")
            if multiplies:
                main_loops.append([name, *(main_loop(loop) for loop, _ in of)])
            if any(alone for _, (alone, _) in of):
                cells = [f"{alone} of {loads}" for _, (alone, loads) in of]
                lone_loads.append([name, *(cells[:1] if len(set(cells)) == 1 else cells)])
    return main_loops, lone_loads


def print_table(head, rows):
    print(head)
    print("| kernel |" + "".join(f" sm_{a} |" for a in ARCHITECTURES))
    print("|---|" + "---|" * len(ARCHITECTURES))
    for row in rows:
        print("| " + " | ".join(row + [""] * (len(ARCHITECTURES) + 1 - len(row))) + " |")


def main():
    cu, ptx, ptxas, folder = map(Path, sys.argv[1:])
    print(HEAD)
    print("| kernel | block | shared |" + "".join(f" sm_{a} |" for a in ARCHITECTURES))
    print("|---|--:|--:|" + "---|" * len(ARCHITECTURES))
    for op in sorted(path.stem for path in ptx.glob("*.ptx")):
        print("\n".join(rows(op, cu, ptx, ptxas)))
    main_loops, lone_loads = loop_tables(ptx, folder)
    print_table(MAIN_LOOPS, main_loops)
    print_table(LONE_LOADS, lone_loads)


main()
