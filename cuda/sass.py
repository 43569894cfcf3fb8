"""What the machine code of a kernel says of its loops: sass.py SASS_FILE prints it, sass.py --test checks itself.

Reads what `nvdisasm -c -hex` prints, finds loops by its labels and branches, and of each kernel tells

- the main loop, which is the innermost loop with the most HMMA (or IMMA): the instructions of one round, on the way
  through the loop that meets the most HMMA and of those the longest, past the loops within it; NOP does not count, nor
  does what only a diverged warp runs;
- static cycles of a round, for one warp alone: the stall counts that the compiler put into each instruction, and waits
  for loads from constant and shared memory at the latencies below; global memory as if it answered at once. The *gap*
  is the longest stretch without an HMMA;
- loads before the first HMMA of a round, from global or constant memory: what the tensor cores wait for;
- global loads in loops that are waited for alone: no other is under way when the first instruction needs one.
"""

import re
import sys
from dataclasses import dataclass, field

# Cycles until a result is there; what is not here has a fixed latency, which is in the stall counts.
LATENCY = {"LDC": 35, "ULDC": 35, "LDCU": 35, "S2R": 30, "S2UR": 30, "LDSM": 33, "LDS": 29, "SHFL": 25, "MUFU": 20}
OPERANDS_READ = 20  # until the operands of a load or store may be written again
UNKNOWN_LATENCY = 15  # conversions, integer division's parts and the like
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;?\s*/\* 0x([0-9a-f]{16}) \*/")
SECOND_WORD = re.compile(r"^\s*/\* 0x([0-9a-f]{16}) \*/")
ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL")


@dataclass
class Instruction:
    address: int
    guard: str  # its predicate, or nothing
    op: str  # with its modifiers
    operands: list
    control: int

    @property
    def name(self):
        return self.op.split(".")[0]

    @property
    def is_mma(self):
        return self.name in ("HMMA", "IMMA")

    @property
    def is_global_load(self):
        return self.name == "LDG" or self.op.startswith("LD.E")

    @property
    def width(self):
        """Registers of each value that it moves."""
        return next((int(bits) // 32 for bits in re.findall(r"\.(64|128|256)\b", self.op)), 1)

    def stall(self):
        return max(1, self.control & 0xF)

    def sets(self):
        """The scoreboard that tells when its result is there, or None."""
        board = self.control >> 5 & 7
        return None if board == 7 else board

    def reads_until(self):
        """The scoreboard that tells when its operands may be written again, or None."""
        board = self.control >> 8 & 7
        return None if board == 7 else board

    def waits(self):
        return [board for board in range(6) if self.control >> 11 >> board & 1]

    def loaded(self):
        """The registers that a load writes."""
        targets = [operand for operand in self.operands if re.fullmatch(r"R\d+", operand)]
        wide = min(self.width, 4)
        return {int(target[1:]) + i for target in targets[: 2 if self.width == 8 else 1] for i in range(wide)}

    def reads(self):
        """The registers that it reads, and those that it writes: either ends the wait for a load."""
        found = set()
        # Of an mma m16n8k16: accumulators, a, b, accumulators.
        widths = [4, 4, 2, 4] if self.is_mma else [2 if "WIDE" in self.op else self.width] * len(self.operands)
        for operand, wide in zip(self.operands, widths):
            for number, suffix in re.findall(r"(?<![A-Z])R(\d+)((?:\.\w+)*)", operand):
                found.update(int(number) + i for i in range(max(wide, 2 if ".64" in suffix else 1)))
        return found


def instructions(text):
    """Kernel name -> its instructions, and label -> address."""
    kernels, name = {}, None
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            name = section[1]
            kernels[name] = ([], {})
        elif name is None:
            continue
        elif label := re.match(r"(\.L_x_\d+):", line):
            code = kernels[name][0]
            kernels[name][1][label[1]] = code[-1].address + 16 if code else 0
        elif found := LINE.search(line):
            guard, op, rest = re.match(r"(?:(@!?U?P\w+)\s+)?(\S+)\s*(.*)", found[2]).groups()
            operands = [part.strip() for part in rest.split(",")] if rest else []
            kernels[name][0].append(Instruction(int(found[1], 16), guard or "", op, operands, 0))
        elif (word := SECOND_WORD.match(line)) and kernels[name][0]:
            kernels[name][0][-1].control = int(word[1], 16) >> 41
    return kernels


@dataclass
class Graph:
    """Basic blocks by the address of their first instruction."""

    blocks: dict = field(default_factory=dict)
    next: dict = field(default_factory=dict)


def follow(at, code, labels, reconverge):
    """Where control goes after an instruction, but for going on to the next one; and whether it may go on."""
    op = code[at]
    target = next((labels[label] for operand in op.operands for label in re.findall(r"\.L_x_\d+", operand) if label in labels), None)
    if op.name == "BSYNC":
        after = reconverge.get(op.operands[0])
        return ([after], False) if after is not None and after > op.address else ([], True)
    if op.name in ("BRA", "JMP") or ".NOINC" in op.op:  # a call without a return is how sm_80 leaves a loop
        if ".DIV" in op.op:
            return [], True
        conditional = op.guard not in ("", "@PT", "@UPT") or len(op.operands) > 1
        return ([] if target is None else [target]), conditional
    if op.name in ENDS:
        return [], op.guard != ""
    return [], True


def graph(code, labels):
    reconverge, leaders, jumps = {}, {0, *labels.values()}, {}
    for at, op in enumerate(code):
        if op.name == "BSSY":
            label = re.search(r"\.L_x_\d+", " ".join(op.operands))
            reconverge[op.operands[0]] = labels.get(label[0]) if label else None
        jumps[at] = follow(at, code, labels, reconverge)
        if jumps[at][0] or not jumps[at][1] or op.name in ("BRA", "BSYNC"):
            leaders.update(jumps[at][0])
            leaders.add(op.address + 16)
    found, block = Graph(), []
    for at, op in enumerate(code):
        if op.address in leaders and block:
            found.next.setdefault(block[0].address, [op.address])
            block = []
        block.append(op)
        found.blocks[block[0].address] = block
        targets, goes_on = jumps[at]
        last = at + 1 == len(code)
        if last or code[at + 1].address in leaders:
            onward = [code[at + 1].address] if goes_on and not last else []
            found.next[block[0].address] = [t for t in dict.fromkeys(targets + onward) if t in leaders]
            block = []
    for targets in found.next.values():
        targets[:] = [target for target in targets if target in found.blocks]
    return found


def loops(found):
    """First block -> all blocks of each natural loop."""
    order, seen = [], set()

    def visit(start):
        stack = [(start, iter(found.next.get(start, [])))]
        seen.add(start)
        while stack:
            at, rest = stack[-1]
            for target in rest:
                if target not in seen:
                    seen.add(target)
                    stack.append((target, iter(found.next.get(target, []))))
                    break
            else:
                order.append(stack.pop()[0])

    visit(min(found.blocks))
    order.reverse()
    before = {at: [] for at in order}
    for at in order:
        for target in found.next[at]:
            before[target].append(at)
    dominators = {at: set(order) for at in order}
    dominators[order[0]] = {order[0]}
    changed = True
    while changed:
        changed = False
        for at in order[1:]:
            new = {at} | set.intersection(*(dominators[p] for p in before[at]))
            changed |= new != dominators[at]
            dominators[at] = new
    bodies = {}
    for at in order:
        for head in (target for target in found.next[at] if target in dominators[at]):
            body, left = bodies.setdefault(head, {head}), [at]
            while left:
                if (block := left.pop()) not in body:
                    body.add(block)
                    left += before[block]
    return bodies


def way_round(found, head, body, inner):
    """The instructions of one round: the way with the most HMMA, of those the longest, round no loop within."""
    best = {}

    def go(at, allowed):
        if at not in best:
            ends, ways = head in found.next[at], []
            for target in found.next[at]:
                if target != head and target in allowed and (way := go(target, allowed)) is not None:
                    ways.append(way)
            here = [op for op in found.blocks[at] if op.name != "NOP"]
            weigh = lambda way: (sum(op.is_mma for op in way), len(way))
            tail = max(ways, key=weigh, default=[] if ends else None)
            best[at] = None if tail is None else here + tail
        return best[at]

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    way = go(head, body - inner)
    sys.setrecursionlimit(limit)
    return way


def schedule(way):
    """Static cycles of a round of the loop, and of its longest stretch without an HMMA."""
    time, ready, rounds, issued = 0, {}, [0], []
    for _ in range(3):
        for op in way:
            time = max([time, *(ready.get(board, 0) for board in op.waits())])
            if op.is_mma:
                issued.append(time)
            if op.sets() is not None and not op.is_global_load:
                latency = LATENCY.get(op.name, 0 if op.name.startswith(("LDG", "ATOM", "RED", "ST")) else UNKNOWN_LATENCY)
                ready[op.sets()] = max(ready.get(op.sets(), 0), time + latency)
            if op.reads_until() is not None:
                ready[op.reads_until()] = max(ready.get(op.reads_until(), 0), time + OPERANDS_READ)
            time += op.stall()
        rounds.append(time)
    last = [t for t in issued if t >= rounds[1]]
    gaps = [b - a for a, b in zip(last, last[1:])]
    return rounds[3] - rounds[2], max(gaps, default=0)


def main_loop(found, bodies):
    """Of the main loop: instructions, HMMA, static cycles, its gap, loads before its first HMMA. None without HMMA."""
    chosen = None
    for head, body in bodies.items():
        inner = set().union(*(b for h, b in bodies.items() if h != head and b < body))
        own = sum(op.is_mma for at in body - inner for op in found.blocks[at])
        if own and (chosen is None or own > chosen[0]):
            chosen = (own, head, body, inner)
    if chosen is None:
        return None
    way = way_round(found, *chosen[1:]) or way_round(found, chosen[1], chosen[2], set())
    count = sum(op.is_mma for op in way)
    first = next(at for at, op in enumerate(way) if op.is_mma)
    loads = sum(op.is_global_load or op.name in ("LDC", "ULDC", "LDCU") for op in way[:first])
    return (len(way), count, *schedule(way), loads)


def lone_loads(found, bodies):
    """How many global loads in loops are waited for alone, and how many there are."""
    in_loops, met, accompanied = {}, {}, set()
    for head, body in sorted(bodies.items(), key=lambda loop: -len(loop[1])):
        for at in body:
            for index, op in enumerate(found.blocks[at]):
                if op.is_global_load:
                    in_loops[op.address] = (at, index, op, head, body)
    for address, (at, index, load, head, body) in in_loops.items():
        wanted, met[address], consumed = load.loaded(), set(), False
        left, seen = [(at, index + 1)], set()
        while left:
            block, start = left.pop()
            for op in found.blocks[block][start:]:
                if wanted & op.reads() and op.address != address:
                    consumed = True
                    break
                if op.is_global_load:
                    met[address].add(op.address)
            else:
                # What is needed in a later round only is not waited for in this one.
                for target in found.next[block]:
                    if target != head and target in body and target not in seen:
                        seen.add(target)
                        left.append((target, 0))
        accompanied |= met[address]
        if not consumed:
            met[address].add(None)
    alone = [address for address in in_loops if not met[address] and address not in accompanied]
    return len(alone), len(in_loops)


def gauges(text):
    """Kernel name -> (main loop or None, (loads waited for alone, loads in loops))."""
    found = {}
    for name, (code, labels) in instructions(text).items():
        if code:
            of = graph(code, labels)
            bodies = loops(of)
            found[name] = (main_loop(of, bodies), lone_loads(of, bodies))
    return found


# Of a kernel that does what the gauges must see, in the disassembler's own words. A loop loads twice alone behind a branch,
# as `dq` of attention's backward did, and twice together; a second one multiplies behind a load from constant memory, has
# a way round with a loop of its own within, and a no-op.
RECORDED = """
	.section	.text.sample,"ax",@progbits
sample:
.text.sample:
        /*0000*/                   S2R R0, SR_TID.X ;               /* 0x0000000000007919 */
                                                                    /* 0x000e220000002100 */
.L_x_1:
        /*0010*/              @!P0 BRA `(.L_x_2) ;                  /* 0x0000000000008947 */
                                                                    /* 0x000fea0003800000 */
        /*0020*/                   LDG.E.64 R80, desc[UR4][R2.64] ; /* 0x0000000402507981 */
                                                                    /* 0x000ea2000c1e1b00 */
        /*0030*/                   FADD R6, R4, R81 ;               /* 0x0000005104067221 */
                                                                    /* 0x004fca0000000000 */
.L_x_2:
        /*0040*/               @P1 LDG.E R80, desc[UR4][R2.64+0x8] ; /* 0x0000000402507981 */
                                                                    /* 0x000ea2000c1e1900 */
        /*0050*/                   STG.E [R8.64], R80 ;             /* 0x0000005008007986 */
                                                                    /* 0x004fe2000c101904 */
        /*0060*/                   LDG.E.128 R20, desc[UR4][R2.64] ; /* 0x0000000402147981 */
                                                                    /* 0x000ea2000c1e1d00 */
        /*0070*/                   LDG.E.128 R24, desc[UR4][R2.64] ; /* 0x0000000402187981 */
                                                                    /* 0x000ee2000c1e1d00 */
        /*0080*/                   FADD R5, R23, R24 ;              /* 0x0000001817057221 */
                                                                    /* 0x00cfca0000000000 */
        /*0090*/               @P0 BRA `(.L_x_1) ;                  /* 0xfffffffc00008947 */
                                                                    /* 0x000fea0003800000 */
.L_x_3:
        /*00a0*/                   LDC R7, c[0x0][0x210] ;          /* 0x00008400ff077b82 */
                                                                    /* 0x000e620000000800 */
        /*00b0*/              @!P0 BRA `(.L_x_5) ;                  /* 0x0000000000008947 */
                                                                    /* 0x000fea0003800000 */
.L_x_4:
        /*00c0*/                   IADD3 R9, R9, 0x1, RZ ;          /* 0x0000000109097810 */
                                                                    /* 0x000fe40007ffe0ff */
        /*00d0*/               @P2 BRA `(.L_x_4) ;                  /* 0xfffffffc00008947 */
                                                                    /* 0x000fea0003800000 */
        /*00e0*/                   BRA `(.L_x_6) ;                  /* 0x0000000000007947 */
                                                                    /* 0x000fea0003800000 */
.L_x_5:
        /*00f0*/                   IADD3 R10, R7, 0x1, RZ ;         /* 0x00000001070a7810 */
                                                                    /* 0x002fe40007ffe0ff */
        /*0100*/                   IADD3 R11, R7, 0x2, RZ ;         /* 0x00000002070b7810 */
                                                                    /* 0x000fe40007ffe0ff */
.L_x_6:
        /*0110*/                   NOP ;                            /* 0x0000000000007918 */
                                                                    /* 0x000fc00000000000 */
        /*0120*/                   HMMA.16816.F32.BF16 R36, R12, R16, R36 ; /* 0x000000100c24723c */
                                                                    /* 0x000ff00000041824 */
        /*0130*/                   HMMA.16816.F32.BF16 R40, R12, R18, R40 ; /* 0x000000120c28723c */
                                                                    /* 0x000ff00000041828 */
        /*0140*/               @P0 BRA `(.L_x_3) ;                  /* 0xfffffffc00008947 */
                                                                    /* 0x000fea0003800000 */
        /*0150*/                   EXIT ;                           /* 0x000000000000794d */
                                                                    /* 0x000fea0003800000 */
"""


def test():
    """Fails unless the gauges of RECORDED are what one counts by hand."""
    found = gauges(RECORDED)["sample"]
    # LDC, BRA, two IADD3, two HMMA, BRA. LDC sets board 1, which the first IADD3 waits for: 35 cycles from its issue. The
    # stall counts behind that are 2, 2, 8, 8, 5; of the HMMA's gap 8 + 5 lie before the next round.
    expected = ((7, 2, 35 + 25, 8 + 5 + 35 + 4, 1), (2, 4))
    if found != expected:
        sys.exit(f"cuda/sass.py: found {found}, expected {expected}")
    apart = RECORDED.replace("FADD R5, R23, R24", "FADD R5, R22, RZ")
    if gauges(apart)["sample"][1] != (2, 4):
        sys.exit("cuda/sass.py: a load whose neighbour is needed first is not alone")
    alone = RECORDED.replace("LDG.E.128 R24, desc[UR4][R2.64]", "FADD R24, R23, RZ")
    if gauges(alone)["sample"][1] != (3, 3):
        sys.exit("cuda/sass.py: a load of four registers is alone where its last one is needed at once")
    straight = RECORDED.replace("@P0 BRA `(.L_x_3)", "EXIT")
    if gauges(straight)["sample"][0] is not None:
        sys.exit("cuda/sass.py: there is no main loop without a backward branch")


if __name__ == "__main__":
    if sys.argv[1:] == ["--test"]:
        test()
    else:
        for kernel, (loop, loads) in gauges(open(sys.argv[1]).read()).items():
            print(kernel, loop, loads)
