"""What gpu_check.sh leaves to Python: PyTorch's times for what the kernels do, and the table of everything.

    gpu_check.py torch ROWS     times PyTorch on so many tokens; status 77 without PyTorch
    gpu_check.py report OUT     prints the table of a run's folder and writes OUT/gpu_check.json
"""

import json
import math
import pathlib
import sys
import time

# Llama-3-8B, as in `vicugna kernels time`.
H, I, NH, NKV, D, V = 4096, 14336, 32, 8, 128, 1024
DTYPES = {"f32": "float32", "bf16": "bfloat16"}

# What is compared: a name, and the kernels that do it, of which each runs once. PyTorch's side has the same name below.
COMPARED = {
    "rmsnorm forward": ["rmsnorm_fwd"],
    "rmsnorm backward": ["rmsnorm_bwd_x", "rmsnorm_bwd_weight", "rmsnorm_bwd_weight_sum"],
    "rope": ["rope"],
    "swiglu forward": ["swiglu_fwd"],
    "swiglu backward": ["swiglu_bwd"],
    "embedding forward": ["embedding_fwd"],
    "embedding backward": ["embedding_sort", "embedding_bwd"],
    "add": ["add"],
    "dropout": ["dropout"],
    "adamw": ["adamw"],
    "grad_norm": ["grad_norm"],
}


def torch_work(torch, dtype, rows, device):
    """Each name's work, to be called many times."""
    F = torch.nn.functional

    def tensor(*shape, grad=False, dtype=dtype):
        return torch.randn(*shape, device=device, dtype=dtype).requires_grad_(grad)

    def backward(y, inputs):
        dy = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True)

    def rmsnorm():
        x, weight = tensor(rows, H, grad=True), tensor(H, grad=True)
        forward = lambda: F.rms_norm(x.detach(), (H,), weight.detach(), 1e-5)
        return forward, backward(F.rms_norm(x, (H,), weight, 1e-5), (x, weight))

    def rope():
        q, k, angle = tensor(rows, NH, D), tensor(rows, NKV, D), tensor(rows, 1, D)
        cos, sin = angle.cos(), angle.sin()

        def turned(x):
            a, b = x.chunk(2, -1)
            return x * cos + torch.cat((-b, a), -1) * sin

        return lambda: (turned(q), turned(k))

    def swiglu():
        gate, up = tensor(rows, I, grad=True), tensor(rows, I, grad=True)
        return lambda: F.silu(gate.detach()) * up.detach(), backward(F.silu(gate) * up, (gate, up))

    def embedding():
        ids = torch.arange(rows, device=device) * 7 % 40
        weight = tensor(V, H, grad=True)
        return lambda: F.embedding(ids, weight.detach()), backward(F.embedding(ids, weight), (weight,))

    def adamw():
        parameter = tensor(rows, H, grad=True, dtype=torch.float32)
        parameter.grad = tensor(rows, H, dtype=torch.float32)
        return torch.optim.AdamW([parameter], fused=device == "cuda").step

    x = tensor(rows, H)
    work = {
        "rmsnorm": rmsnorm,
        "rope": lambda: (rope(),),
        "swiglu": swiglu,
        "embedding": embedding,
        "add": lambda: (lambda: x + x,),
        "dropout": lambda: (lambda: F.dropout(x, 0.1),),
        "grad_norm": lambda: (lambda: torch.linalg.vector_norm(x),),
    }
    if dtype == torch.float32:
        work["adamw"] = lambda: (adamw(),)
    return work


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


def time_torch(rows):
    try:
        import torch
    except ImportError:
        print("python3 has no torch", file=sys.stderr)
        sys.exit(77)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = rows if device == "cuda" else min(rows, 64)
    times, errors = [], []
    for dtype, name_of_dtype in DTYPES.items():
        for op, make in torch_work(torch, getattr(torch, name_of_dtype), rows, device).items():
            try:
                works = make()
                names = [op] if len(works) == 1 else [f"{op} forward", f"{op} backward"]
                for name, work in zip(names, works):
                    milliseconds = 1e3 * best_seconds(torch, device, work)
                    times.append({"name": name, "dtype": dtype, "milliseconds": milliseconds})
            except Exception as error:  # the other ops go on
                errors.append(f"{op} {dtype}: {type(error).__name__}: {error}")
            if device == "cuda":
                torch.cuda.empty_cache()
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    json.dump({"torch": torch.__version__, "device": name, "rows": rows, "times": times, "errors": errors}, sys.stdout)
    print("\n".join(errors), file=sys.stderr)
    sys.exit(1 if errors else 0)


def read(out, name):
    """The JSON that a part printed last."""
    try:
        return json.loads((out / f"{name}.out").read_text().strip().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None


def note(out, name, status):
    """A part's result in a few words."""
    lines = [line for end in ("out", "err") if (file := out / f"{name}.{end}").exists() for line in file.read_text(errors="replace").splitlines()]
    told = read(out, name) or {}
    if name.startswith("record") and "same" in told:
        return "{same} of {launches} launches bit-equal, {close} within the bound, {differ} differ, {left} not run".format(**told)
    results = [line for line in lines if line.startswith("test result")]
    if results:
        return results[-1].removeprefix("test result: ").split("; 0 ignored")[0]
    if status == "ok":
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")[:100]


def compare(launches, torch):
    """Kernels beside PyTorch, by name and dtype."""
    ours = {}
    for launch in launches:
        ours.setdefault((launch["kernel"], launch["dtype"]), launch["milliseconds"])
    theirs = {(time["name"], time["dtype"]): time["milliseconds"] for time in (torch or {}).get("times", [])}
    rows = []
    for name, kernels in COMPARED.items():
        for dtype in DTYPES:
            parts = [ours.get((f"{kernel}_{dtype}", dtype), ours.get((kernel, dtype))) for kernel in kernels]
            row = {"name": name, "dtype": dtype, "vicugna": None if None in parts else sum(parts), "torch": theirs.get((name, dtype))}
            if row["vicugna"] or row["torch"]:
                rows.append(row)
    return rows


def table(head, rows):
    """Rows in columns: the first to the left, numbers to the right."""
    cells = [[*map(str, row)] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    is_text = [not any(cell[:1].isdigit() for cell in column[1:]) for column in zip(*cells)]
    for row in cells:
        print("  ".join(c.ljust(w) if text else c.rjust(w) for c, w, text in zip(row, widths, is_text)).rstrip())
    print()


def number(value, digits=4):
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def report(out):
    parts = [line.split("\t") for line in (out / "parts.tsv").read_text().splitlines()]
    parts = [{"part": name, "status": status, "seconds": int(seconds), "note": note(out, name, status)} for name, status, seconds in parts]
    gpus = [device for device in (read(out, "devices") or {}).get("devices", []) if device["device"].startswith("cuda")]
    timed = {part["part"]: read(out, part["part"]) for part in parts if part["part"].startswith("time-")}
    launches = [launch for told in timed.values() if told for launch in told["launches"]]
    copies = [told["copy_gb_per_s"] for told in timed.values() if told]
    rows = next((told["rows"] for told in timed.values() if told), None)
    torch = read(out, "pytorch")
    compared = compare(launches, torch)
    gpu = gpus[0]["name"] if gpus else "no GPU"
    print(f"{gpu}; PyTorch {torch['torch']} on {torch['device']}" if torch else f"{gpu}; no PyTorch", end="\n\n")
    table(["part", "status", "s", ""], [[p["part"], p["status"], p["seconds"], p["note"]] for p in parts])
    if launches:
        print(f"Kernels on {rows} tokens; a copy moves {max(copies):.0f} GB/s")
        kernels = [[l["kernel"], number(l["milliseconds"]), number(l["bytes"] / l["milliseconds"] / 1e6, 1), f"{100 * l['share_of_copy']:.0f} %"] for l in launches]
        table(["kernel", "ms", "GB/s", "of a copy"], kernels)
    if compared:
        print("Beside PyTorch, in ms")
        ratio = lambda row: number(row["torch"] / row["vicugna"], 2) if row["torch"] and row["vicugna"] else ""
        table(["op", "dtype", "vicugna", "torch", "torch / vicugna"], [[r["name"], r["dtype"], number(r["vicugna"]), number(r["torch"]), ratio(r)] for r in compared])
    told = {"gpu": gpu, "rows": rows, "copy_gb_per_s": max(copies, default=None), "parts": parts, "launches": launches, "compared": compared, "torch": torch}
    (out / "gpu_check.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["torch", rows]:
            time_torch(int(rows))
        case ["report", out]:
            report(pathlib.Path(out))
        case _:
            sys.exit(__doc__)
