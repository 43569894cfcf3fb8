# The Triton kernels whose PTX is checked in beside this file. `python kernels.py` compiles them again: it needs Triton
# (pip install triton) and no GPU.
import pathlib

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def vector_add(y, a, b, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(a + i, i < n) + tl.load(b + i, i < n), i < n)


# y [rows, n] = softmax of each row of x; one program a row, n <= BLOCK.
@triton.jit
def softmax(y, x, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    v = tl.load(x + row * n + i, i < n, other=-float("inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * n + i, e / tl.sum(e, 0), i < n)


# y [rows, n] = (x - mean) / sqrt(variance + eps) * weight + bias.
@triton.jit
def layer_norm(y, x, weight, bias, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    mean = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        mean += tl.load(x + row * n + i, i < n, other=0.0)
    mean = tl.sum(mean, 0) / n
    square = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        d = tl.where(i < n, tl.load(x + row * n + i, i < n, other=0.0) - mean, 0.0)
        square += d * d
    scale = 1 / tl.sqrt(tl.sum(square, 0) / n + eps)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = (tl.load(x + row * n + i, i < n) - mean) * scale
        tl.store(y + row * n + i, v * tl.load(weight + i, i < n) + tl.load(bias + i, i < n), i < n)


# c [m, n] in f32 = a [m, k] b [k, n] in bf16.
@triton.jit
def matmul(c, a, b, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros([M, N], tl.float32)
    for start in range(0, k, K):
        inner = start + tl.arange(0, K)
        left = tl.load(a + rows[:, None] * k + inner[None, :], (rows[:, None] < m) & (inner[None, :] < k), other=0.0)
        right = tl.load(b + inner[:, None] * n + columns[None, :], (inner[:, None] < k) & (columns[None, :] < n), other=0.0)
        total = tl.dot(left, right, total)
    tl.store(c + rows[:, None] * n + columns[None, :], total, (rows[:, None] < m) & (columns[None, :] < n))


# o [s, D] in f32 = softmax(q k^T scale, causal) v, one head, in bf16.
@triton.jit
def flash(o, q, k, v, s, scale, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    d = tl.arange(0, D)
    queries = tl.load(q + rows[:, None] * D + d[None, :], rows[:, None] < s, other=0.0)
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    out = tl.zeros([M, D], tl.float32)
    for start in range(0, tl.minimum((tl.program_id(0) + 1) * M, s), N):
        keys = start + tl.arange(0, N)
        kt = tl.load(k + keys[None, :] * D + d[:, None], keys[None, :] < s, other=0.0)
        scores = tl.where((keys[None, :] <= rows[:, None]) & (keys[None, :] < s), tl.dot(queries, kt) * scale, -float("inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp(scores - new_top[:, None])
        shrink = tl.exp(top - new_top)
        values = tl.load(v + keys[:, None] * D + d[None, :], keys[:, None] < s, other=0.0)
        out = tl.dot(p.to(tl.bfloat16), values, out * shrink[:, None])
        total = total * shrink + tl.sum(p, 1)
        top = new_top
    tl.store(o + rows[:, None] * D + d[None, :], out / total[:, None], rows[:, None] < s)


KERNELS = [
    (vector_add, "*fp32 *fp32 *fp32 i32", {"BLOCK": 512}),
    (softmax, "*fp32 *fp32 i32", {"BLOCK": 1024}),
    (layer_norm, "*fp32 *fp32 *fp32 *fp32 i32 fp32", {"BLOCK": 256}),
    (matmul, "*fp32 *bf16 *bf16 i32 i32 i32", {"M": 64, "N": 64, "K": 32}),
    (flash, "*fp32 *bf16 *bf16 *bf16 i32 fp32", {"M": 64, "N": 32, "D": 64}),
]

for kernel, types, constants in KERNELS:
    names = kernel.arg_names[: len(types.split())]
    signature = dict(zip(names, types.split())) | {name: "constexpr" for name in constants}
    divisible = {(at,): [["tt.divisibility", 16]] for at, ty in enumerate(types.split()) if ty[0] == "*"}
    source = ASTSource(kernel, signature, constants, divisible)
    options = {"num_warps": 4, "num_stages": 3}
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    text = "\n".join(line for line in compiled.asm["ptx"].splitlines() if not line.lstrip().startswith((".loc", ".file")))
    text = text.split("\t.section")[0].rstrip("\x00\n ") + "\n"
    head = f"// From kernels.py by Triton {triton.__version__}; shared memory: {compiled.metadata.shared} bytes.\n"
    (pathlib.Path(__file__).parent / f"{kernel.__name__}.ptx").write_text(head + text)
    print(kernel.__name__, compiled.metadata.shared)
