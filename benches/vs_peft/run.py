"""Trains SmolLM2-135M with PEFT and with vicugna, in turn, on the same tokens from the same adapter, and compares.

    python3 -m venv .venv && .venv/bin/pip install -r tests/fixtures/requirements.txt
    cargo build --release
    .venv/bin/python benches/vs_peft/run.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf [--dolly summarization.jsonl]

LoRA r 8 on q and v, f32, AdamW at 1e-4, two threads, steps of 4 records in the order of the data. Without --dolly these
are 256 random tokens each, all of them supervised. With it they are real records in JumpStart's prompt, the prompt
masked: vicugna reads the text, and PEFT is given the tokens, padded to the longest record of the batch as its users do.

Each side runs in a process of its own; a round is one run of each, so that a neighbour on the machine disturbs both. The
first two steps of a run are not counted. Rates are of real tokens, padding left out.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BATCH, WARM_UP, LONGEST, EOS = 4, 2, 1024, 2
INTRO = "Below is an instruction that describes a task{}. Write a response that appropriately completes the request."


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def model_tools():
    sys.path.insert(0, os.path.join(ROOT, "tests", "fixtures"))
    import make_smollm2
    from gguf import GGUFReader
    return make_smollm2, GGUFReader


def chunks(rows):
    return [rows[first:first + BATCH] for first in range(0, len(rows), BATCH)]


# --- processes of their own ------------------------------------------------------------------------------------------

def tokenized(tokenizer, record):
    """A record as `vicugna finetune` tokenizes it; `None` if it leaves nothing to learn."""
    prompt = INTRO.format(", paired with an input that provides further context" if record["context"] else "")
    prompt += f"\n\n### Instruction:\n{record['instruction']}\n\n"
    if record["context"]:
        prompt += f"### Input:\n{record['context']}\n\n"
    head = tokenizer.encode(prompt + "\n\n### Response:\n").ids
    ids = (head + tokenizer.encode(" " + record["response"]).ids + [EOS])[:LONGEST]
    labels = [-100] * len(head) + ids[len(head):]
    return {"input_ids": ids, "labels": labels} if len(ids) > len(head) else None


def prepare(gguf, folder, dolly, count):
    """Writes `tokens.jsonl` for PEFT, `train.jsonl` for vicugna, and `adapter/`, from which both start."""
    tools, reader = model_tools()
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    reader = reader(gguf)
    if dolly:
        tokenizer = tools.read_tokenizer(reader)
        pairs = [(record, tokenized(tokenizer, record)) for record in read_lines(dolly)]
        records, rows = zip(*[pair for pair in pairs if pair[1]][:count])
    else:
        ids = np.random.default_rng(0).integers(3, 49152, (count, 256)).tolist()
        records = rows = [{"input_ids": row, "labels": row} for row in ids]
    write_lines(os.path.join(folder, "train.jsonl"), records)
    write_lines(os.path.join(folder, "tokens.jsonl"), rows)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    get_peft_model(tools.read_model(reader), config).save_pretrained(os.path.join(folder, "adapter"))


def padded(batch):
    """What a data collator makes of a batch."""
    import torch
    width = max(len(row["input_ids"]) for row in batch)
    rows = [(row, width - len(row["input_ids"])) for row in batch]
    return {"input_ids": torch.tensor([row["input_ids"] + [EOS] * left for row, left in rows]),
            "attention_mask": torch.tensor([[1] * (width - left) + [0] * left for _, left in rows]),
            "labels": torch.tensor([row["labels"] + [-100] * left for row, left in rows])}


def peft(gguf, folder, threads):
    """One pass over `tokens.jsonl`, as PEFT's users write it."""
    def rss():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    tools, reader = model_tools()
    import torch
    from peft import PeftModel
    torch.set_num_threads(threads)
    imports = rss()
    model = PeftModel.from_pretrained(tools.read_model(reader(gguf)), os.path.join(folder, "adapter"), is_trainable=True)
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
    losses, seconds, tokens = [], [], []
    for batch in chunks(read_lines(os.path.join(folder, "tokens.jsonl"))):
        begun = time.perf_counter()
        loss = model(**padded(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begun)
        tokens.append(sum(len(row["input_ids"]) for row in batch))
    print(json.dumps({"losses": losses, "seconds": seconds, "tokens": tokens, "rss": rss(), "imports": imports}))


# --- the driver ------------------------------------------------------------------------------------------------------

def run_peft(args, folder):
    command = [sys.executable, "-W", "ignore", __file__, "peft", args.gguf, folder, str(args.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def run_vicugna(args, folder):
    with tempfile.TemporaryDirectory() as parent:
        out = os.path.join(parent, "out")
        output = subprocess.run([
            args.vicugna, "finetune", "--model", args.gguf, "--train", os.path.join(folder, "train.jsonl"), "--out", out,
            "--init-adapter", os.path.join(folder, "adapter"), "--epochs", "1", "--batch-size", str(BATCH),
            "--max-input-length", str(LONGEST), "--no-packing", "--no-shuffle", "--validation-split-ratio", "0",
            "--threads", str(args.threads), "--quiet", "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
        steps = read_lines(os.path.join(out, "metrics.jsonl"))
    return {"losses": [step["loss"] for step in steps], "rss": json.loads(output)["peak_rss_bytes"], "imports": 0,
            "tokens": [step["tokens"] for step in steps],
            "seconds": [step["tokens"] / step["tokens_per_second"] for step in steps]}


def speed(run):
    """Real tokens a second."""
    return sum(run["tokens"][WARM_UP:]) / sum(run["seconds"][WARM_UP:])


def spread(values, form):
    least, *_, greatest = sorted(values) if len(values) > 1 else values * 2
    return f"{statistics.median(values):{form}} ({least:{form}} to {greatest:{form}})"


def report(rounds, records):
    """Medians over the rounds, with the least and the greatest."""
    counted = records - BATCH * WARM_UP
    print(f"\nmedian (least to greatest) of {len(rounds)} rounds")
    for name, runs in zip(["PEFT", "vicugna"], zip(*rounds)):
        peak, imports = max(run["rss"] for run in runs), runs[0]["imports"]
        of_that = f", {imports / 1e9:.2f} of it imports" if imports else ""
        print(f"{name:8}{spread([speed(run) for run in runs], '.1f')} tokens/s, "
              f"{spread([sum(run['seconds'][WARM_UP:]) / counted for run in runs], '.3f')} s a record, "
              f"peak {peak / 1e9:.2f} GB{of_that}, losses {runs[0]['losses'][0]:.5f} to {runs[0]['losses'][-1]:.5f}")
    peaks = [max(run["rss"] for run in runs) for runs in zip(*rounds)]
    theirs, ours = rounds[0]
    apart = max(abs(a / b - 1) for a, b in zip(ours["losses"], theirs["losses"], strict=True))
    print(f"speed   {spread([speed(ours) / speed(theirs) for theirs, ours in rounds], '.2f')} x PEFT's\n"
          f"memory  {peaks[1] / peaks[0]:.2f} x PEFT's, {peaks[1] / (peaks[0] - theirs['imports']):.2f} x without its imports\n"
          f"losses  at most {apart:.1e} apart in {len(ours['losses'])} steps")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--vicugna", default=os.path.join(ROOT, "target", "release", "vicugna"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dolly", help="JSON lines of instruction, context, response")
    parser.add_argument("--records", type=int, help="records of a run [default: 36; 200 of Dolly]")
    args = parser.parse_args()
    records = args.records or (200 if args.dolly else 36)
    if records <= BATCH * WARM_UP:
        parser.error(f"--records must be above {BATCH * WARM_UP}: the first {WARM_UP} steps are not counted")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "prepare", args.gguf, folder, args.dolly or "", str(records)]
        subprocess.run(command, check=True)
        rounds = []
        for number in range(1, args.rounds + 1):
            theirs, ours = pair = run_peft(args, folder), run_vicugna(args, folder)
            assert theirs["tokens"] == ours["tokens"], "the two did not train on the same tokens"
            rounds.append(pair)
            print(f"round {number}: PEFT {speed(theirs):.1f}, vicugna {speed(ours):.1f} tokens/s: "
                  f"{speed(ours) / speed(theirs):.2f} x", flush=True)
        report(rounds, len(read_lines(os.path.join(folder, "tokens.jsonl"))))


if __name__ == "__main__":
    match sys.argv[1:2]:
        case ["prepare"]:
            prepare(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
        case ["peft"]:
            peft(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        case _:
            main()
