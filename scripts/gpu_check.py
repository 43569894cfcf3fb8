"""What gpu_check.sh leaves to Python: PyTorch's times for what the kernels do, and the table of everything.

    gpu_check.py torch ROWS DTYPE SECONDS    times PyTorch on so many tokens; after so many seconds it starts no other op;
                                             a line of JSON for each time; status 77 without PyTorch
    gpu_check.py losses PARTS                fails unless the GPU's losses are the CPU's
    gpu_check.py report PARTS FILE           prints the table of a run's parts and writes FILE, its gpu_check.json
"""

import csv
import importlib.util
import json
import pathlib
import sys
import time

# Llama-3-8B, as in `vicugna kernels time`.
H, I, NH, NKV, D, V = 4096, 14336, 32, 8, 128, 1024
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
# What a loss on the GPU may be away from the CPU's, as a share: both are f32, in other orders.
SAME_LOSS = 1e-3

def torch_work(torch, dtype, rows, device):
    """Each op's work, made when it is asked for: by the names of `vicugna kernels time`, what to call many times."""
    F = torch.nn.functional

    def tensor(*shape, grad=False, dtype=dtype):
        return torch.randn(*shape, device=device, dtype=dtype).requires_grad_(grad)

    def width(n):
        return n // 16 if rows < 1024 else n

    def backward(y, *inputs):
        dy = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    def both(name, f, *inputs):
        """Forward alone, and backward alone."""
        plain = [x.detach() for x in inputs]
        return {f"{name} forward": lambda: f(*plain), f"{name} backward": backward(f(*inputs), *inputs)}

    def rmsnorm():
        weight, residual = tensor(H, grad=True), tensor(rows, H)
        norm = lambda x, weight: F.rms_norm(x, (H,), weight, 1e-5)
        x = tensor(rows, H, grad=True)
        plain, fixed = x.detach(), weight.detach()
        return both("rmsnorm", norm, x, weight) | {"rmsnorm residual": lambda: norm(plain + residual, fixed)}

    def rope():
        q, k, angle = tensor(rows, NH, D), tensor(rows, NKV, D), tensor(rows, 1, D)
        cos, sin = angle.cos(), angle.sin()

        def turned(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat((-b, a), -1) * sin

        return {"rope": lambda: (turned(q), turned(k))}

    def swiglu():
        return both("swiglu", lambda gate, up: F.silu(gate) * up, tensor(rows, I, grad=True), tensor(rows, I, grad=True))

    def attention():
        from torch.nn.attention import SDPBackend, sdpa_kernel

        length = min(rows, 2048)
        q, k, v = (tensor(rows // length, heads, length, D, grad=True) for heads in (NH, NKV, NKV))
        query, keys, values = tensor(1, NH, 1, D), tensor(1, NKV, rows, D), tensor(1, NKV, rows, D)
        is_flash = device == "cuda" and dtype == torch.bfloat16
        backends = [SDPBackend.FLASH_ATTENTION] if is_flash else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

        def attend(q, k, v, is_causal=True):
            with sdpa_kernel(backends):
                return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)

        return both("attention", attend, q, k, v) | {"attention one query": lambda: attend(query, keys, values, False)}

    def matmul():
        work = {}
        for k, n in [(width(k), width(n)) for k, n in [(H, H), (H, I), (I, H)]]:
            x, weight, dy, row = tensor(rows, k), tensor(n, k), tensor(rows, n), tensor(1, k)
            name = f"matmul {k} to {n}"
            work[name] = lambda x=x, weight=weight: x @ weight.T
            work[f"{name} dx"] = lambda dy=dy, weight=weight: dy @ weight
            work[f"{name} dw"] = lambda dy=dy, x=x: dy.T @ x
            work[f"{name} one row"] = lambda row=row, weight=weight: row @ weight.T
        return work

    def lora():
        h, r = width(H), 16
        x, weight, a, b = tensor(rows, h, grad=True), tensor(h, h), tensor(r, h, grad=True), tensor(h, r, grad=True)
        return both("lora", lambda x, a, b: x @ weight.T + 2.0 * ((x @ a.T) @ b.T), x, a, b)

    def cross_entropy():
        h, v = width(H), width(128256)
        x, weight, targets = tensor(rows, h, grad=True), tensor(v, h), torch.arange(rows, device=device) * 7 % v
        loss = lambda x: F.cross_entropy((x @ weight.T).float(), targets)
        plain = x.detach()
        return {"cross_entropy": lambda: loss(plain), "cross_entropy and dhidden": lambda: torch.autograd.grad(loss(x), x)}

    def embedding():
        ids, weight = torch.arange(rows, device=device) * 7 % 997, tensor(V, H, grad=True)
        return both("embedding", lambda weight: F.embedding(ids, weight), weight)

    def elementwise():
        x, other = tensor(rows, H), torch.bfloat16 if dtype == torch.float32 else torch.float32
        return {"add": lambda: x + x, "cast": lambda: x.to(other)}

    def dropout():
        x = tensor(rows, H)
        return {"dropout": lambda: F.dropout(x, 0.1)}

    def adamw():
        if dtype != torch.float32:
            return {}
        parameter = tensor(rows, H, grad=True)
        parameter.grad = tensor(rows, H)
        return {"adamw": torch.optim.AdamW([parameter], fused=True).step}

    def grad_norm():
        x = tensor(rows, H)
        return {"grad_norm": lambda: torch.linalg.vector_norm(x)}

    def bitsandbytes():
        if dtype == torch.float32 or device == "cpu":
            return {}
        from bitsandbytes.nn import Linear4bit, Linear8bitLt

        x = tensor(rows, H, dtype=torch.float16)
        layers = {"int8_matmul": Linear8bitLt(H, I, bias=False, has_fp16_weights=False), "nf4": Linear4bit(H, I, bias=False, quant_type="nf4", compute_dtype=torch.float16)}
        layers = {name: layer.half().to(device) for name, layer in layers.items()}
        return {f"{name} {H} to {I}": lambda layer=layer: layer(x) for name, layer in layers.items()}

    ops = (matmul, attention, cross_entropy, lora, rmsnorm, rope, swiglu, embedding, elementwise, dropout, adamw,
           grad_norm)
    if dtype == torch.float32:  # a head in f32 is nobody's
        ops = tuple(op for op in ops if op is not cross_entropy)
    return ops + (bitsandbytes,) if importlib.util.find_spec("bitsandbytes") else ops


def best_seconds(torch, device, work):
    """One of many calls in a row, as the kernels are timed."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def one_of(times):
        wait()
        start = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        return (time.perf_counter() - start) / times

    one_of(1)
    times = int(min(1000, max(1, 0.015 / one_of(1))))
    return min(one_of(times) for _ in range(3))


def time_torch(rows, dtype, seconds):
    try:
        import torch
    except ImportError:
        print("python3 has no torch", file=sys.stderr)
        sys.exit(77)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = rows if device == "cuda" else min(rows, 64)
    tell = lambda told: print(json.dumps(told), flush=True)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    tell({"torch": torch.__version__, "device": name, "rows": rows})
    errors, start = [], time.monotonic()
    for op in torch_work(torch, getattr(torch, DTYPES[dtype]), rows, device):
        if time.monotonic() - start > seconds:
            errors.append(f"{op.__name__} {dtype}: no time left")
            continue
        try:
            for name, work in op().items():
                tell({"name": name, "dtype": dtype, "milliseconds": 1e3 * best_seconds(torch, device, work)})
        except Exception as error:  # the other ops go on
            errors.append(f"{op.__name__} {dtype}: {type(error).__name__}: {error}")
        if device == "cuda":
            torch.cuda.empty_cache()
    print("\n".join(errors), file=sys.stderr)
    sys.exit(1 if errors else 0)


def lines_of(path):
    """The JSON lines of a file; one that was cut off is left out."""
    told = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            told.append(json.loads(line))
        except ValueError:
            pass
    return told


def read(parts, name):
    """The JSON that a part printed last."""
    told = [line for line in lines_of(parts / f"{name}.out") if isinstance(line, dict)]
    return told[-1] if told else None


def losses(parts):
    """The losses of the fine-tuning's steps on the CPU and on the GPU."""
    of = lambda device: [line["loss"] for line in lines_of(parts / f"finetune-{device}/metrics.jsonl") if "loss" in line]
    return of("cpu"), of("cuda")


def check_losses(parts):
    cpu, cuda = losses(parts)
    apart = [abs(b / a - 1) for a, b in zip(cpu, cuda)]
    print(json.dumps({"cpu": cpu, "cuda": cuda, "apart": apart}))
    sys.exit(0 if apart and len(cpu) == len(cuda) and all(share <= SAME_LOSS for share in apart) else 1)


def note(parts, name, status):
    """A part's result in a few words."""
    lines = [line for end in ("out", "err") if (file := parts / f"{name}.{end}").exists() for line in file.read_text(errors="replace").splitlines()]
    told = read(parts, name) or {}
    if name.startswith("record") and "same" in told:
        return "{same} of {launches} launches bit-equal, {close} within the bound, {differ} differ, {left} not run".format(**told)
    if told.get("apart"):
        return f"at most {max(told['apart']):.1e} apart"
    if "tokens_per_second" in told:
        return f"{told['tokens_per_second']:.0f} tokens/s"
    results = [line for line in lines if line.startswith("test result") or "SUMMARY:" in line]
    if results:
        return results[-1].removeprefix("test result: ").strip("= ").split("; 0 ignored")[0]
    if status == "ok":
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")[:100]


def compare(steps, torch):
    """What was timed on both sides, or on one, by name and dtype."""
    theirs = {(work["name"], work["dtype"]): work["milliseconds"] for work in torch}
    ours = {(step["name"], step["dtype"]): step for step in steps}
    rows = []
    for name, dtype in dict.fromkeys([*ours, *theirs]):
        step = ours.get((name, dtype), {})
        rows.append({"name": name, "dtype": dtype, "torch": theirs.get((name, dtype)), **step})
    return rows


def rate(row):
    """What a step moved or computed in a second."""
    if "milliseconds" not in row:
        return ""
    if row["operations"]:
        return f"{row['operations'] / row['milliseconds'] / 1e9:.1f} TFLOP/s"
    return f"{row['bytes'] / row['milliseconds'] / 1e6:.0f} GB/s, {100 * row['share_of_copy']:.0f} % of a copy"


def table(head, rows):
    """Rows in columns, numbers to the right."""
    columns = list(zip(*[[str(cell) for cell in row] for row in [head, *rows]]))
    is_number = lambda cell: not cell or cell.replace(".", "", 1).isdigit()

    def aligned(column):
        width = max(map(len, column))
        return [cell.rjust(width) if all(map(is_number, column[1:])) else cell.ljust(width) for cell in column]

    for row in zip(*map(aligned, columns)):
        print("  ".join(row).rstrip())
    print()


def number(value, digits=4):
    return "" if value is None else f"{value:.{digits}f}"


def profiled(path):
    """What ncu counted of a launch: the name of each metric with its value and unit."""
    rows = [row for row in csv.reader(path.read_text(errors="replace").splitlines()) if len(row) > 20]
    if len(rows) < 3:
        return {}
    return {name: (value, unit) for name, unit, value in zip(*rows[:3]) if value}


def stalls(metrics):
    """The three things that warps waited for most, in cycles an instruction."""
    head, end = "smsp__average_warps_issue_stalled_", "_per_issue_active.ratio"
    found = {name[len(head):-len(end)]: value for name, (value, _) in metrics.items() if name.startswith(head) and name.endswith(end)}
    found = sorted(((float(value.replace(",", "")), name) for name, value in found.items()), reverse=True)
    return ", ".join(f"{name} {value:.2f}" for value, name in found[:3])


def print_profiles(parts):
    columns = ["gpu__time_duration.sum", "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
               "dram__bytes.sum", "lts__t_bytes.sum", "launch__registers_per_thread", "sm__warps_active.avg.pct_of_peak_sustained_active"]
    lines = []
    for path in sorted(parts.glob("ncu-*.out")):
        metrics = profiled(path)
        if metrics:
            lines.append([path.stem.removeprefix("ncu-"), *[" ".join(metrics.get(name, ("",))) for name in columns], stalls(metrics)])
    if lines:
        table(["ncu", "time", "tensor pipe", "dram", "L2", "registers", "warps", "stalls, cycles an instruction"], lines)


def print_step(told):
    """A training step's times, and the kernels that took longest of those launched singly."""
    if len(told) < 2:
        return
    head, steps = told[0], told[1:]
    print(f"A training step of {head['shape']}, {head['dtype']}, LoRA of rank 8 with dropout 0.05, on {head['tokens']} tokens")
    lines, kernels = [], {}
    for step in steps:
        peak = step.get("peak_device_bytes")
        launches = sum(kernel["launches"] for kernel in step.get("kernels", []))
        lines.append([step["targets"], step["mode"], number(step["milliseconds"], 2), number(step["tokens_per_second"], 0), number(step.get("loss")), number(peak and peak / 2**30, 2), launches or ""])
        for kernel in step.get("kernels", []):
            kernels.setdefault(kernel["kernel"], {})[step["targets"]] = kernel
    table(["targets", "mode", "ms", "tokens/s", "loss", "GiB", "launches"], lines)
    targets = list(dict.fromkeys(step["targets"] for step in steps if step.get("kernels")))
    if targets:
        cells = lambda kernel: [text for target in targets for text in ((number(kernel[target]["milliseconds"], 3), kernel[target]["launches"]) if target in kernel else ("", ""))]
        table(["kernel", *[text for target in targets for text in (f"{target}, ms", "launches")]], [[name, *cells(kernel)] for name, kernel in list(kernels.items())[:20]])


def report(parts, file):
    rows_of = [line.split("\t") for line in (parts / "parts.tsv").read_text().splitlines()]
    told = [{"part": name, "status": status, "seconds": int(seconds), "note": note(parts, name, status)} for name, status, seconds in rows_of]
    gpus = [device for device in (read(parts, "devices") or {}).get("devices", []) if device["device"].startswith("cuda")]
    timed = [lines for part in told if (lines := lines_of(parts / f"{part['part']}.lines")) and part["part"].startswith("time-")]
    torch = [line for dtype in DTYPES for line in lines_of(parts / f"torch-{dtype}.out")]
    heads = [line for line in torch if "torch" in line]
    compared = compare([step for lines in timed for step in lines[1:]], [line for line in torch if "name" in line])
    copy = max((lines[0]["copy_gb_per_s"] for lines in timed), default=None)
    rows = max((lines[0]["rows"] for lines in timed), default=None)
    step, (cpu, cuda) = lines_of(parts / "step.lines"), losses(parts)
    gpu = gpus[0]["name"] if gpus else "no GPU"
    print(f"{gpu}; " + (f"PyTorch {heads[0]['torch']} on {heads[0]['device']}" if heads else "no PyTorch"), end="\n\n")
    table(["part", "status", "s", ""], [[p["part"], p["status"], p["seconds"], p["note"]] for p in told])
    if cpu or cuda:
        print("Losses of a fine-tuning in f32")
        at = lambda losses, i: number(losses[i] if i < len(losses) else None, 6)
        table(["step", "cpu", "cuda"], [[i + 1, at(cpu, i), at(cuda, i)] for i in range(max(len(cpu), len(cuda)))])
    print_step(step)
    print_profiles(parts)
    if compared:
        print(f"In milliseconds, on {rows} tokens" + (f"; a copy moves {copy:.0f} GB/s" if copy else ""))
        lines = []
        for row in compared:
            ours, theirs = row.get("milliseconds"), row["torch"]
            ratio = number(theirs / ours, 2) if ours and theirs else ""
            lines.append([row["name"], row["dtype"], number(ours), number(theirs), ratio, rate(row)])
        table(["op", "dtype", "vicugna", "torch", "torch / vicugna", "vicugna's rate"], lines)
    result = {"gpu": gpu, "rows": rows, "copy_gb_per_s": copy, "parts": told, "losses": {"cpu": cpu, "cuda": cuda}, "step": step, "compared": compared, "torch": heads[0]["torch"] if heads else None}
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["torch", rows, dtype, seconds]:
            time_torch(int(rows), dtype, float(seconds))
        case ["losses", parts]:
            check_losses(pathlib.Path(parts))
        case ["report", parts, file]:
            report(pathlib.Path(parts), pathlib.Path(file))
        case _:
            sys.exit(__doc__)
