"""The options of `bild worker`: one a field of `WorkerConfig`, so that neither has what the other lacks."""

from __future__ import annotations

import argparse
import dataclasses

from bild_dist.config import WorkerConfig


def worker_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `bild worker`: one a field of WorkerConfig, with its default."""
    default = WorkerConfig()
    texts = {
        "model": "hub id, folder or GGUF file",
        "tokenizer": "folder of the tokenizer, if not with the model",
        "exit_layer": "keep only the first N (decoder) layers; 0 keeps all",
        "device": "cpu or cuda:N",
        "dtype": "float32, bfloat16 or float16",
        "threads": "CPU threads; 0 takes one a core",
        "listen": "grpc://HOST:PORT, zmq://HOST:PORT or zmq+ipc://PATH",
        "slots": "requests that may hold a KV cache at once",
        "max_length": "tokens per slot",
        "calm": "leave the layers early at this cosine of two layers' outputs (CALM); 0 runs all",
        "calm_decay": "how fast that threshold falls along the text",
        "ignore_generation": "fields of the model's generation config to leave out, with commas",
        "trust_remote_code": "run code that comes with the checkpoint",
        "metrics": "HOST:PORT of a page for Prometheus, open to whoever reaches it; none by default",
        "traces": "OTLP endpoint over HTTP that spans are sent to; none by default",
        "log": "json or console; json by default where no terminal is attached",
    }
    for spec in dataclasses.fields(WorkerConfig):
        flag, value = f"--{spec.name.replace('_', '-')}", getattr(default, spec.name)
        text = texts[spec.name]
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true", help=text)
        elif isinstance(value, tuple):
            parser.add_argument(flag, type=_words, default=value, metavar="NAMES", help=text)
        else:
            kind, metavar = type(value), "N" if isinstance(value, int) else spec.name.upper()
            shown = f"{text} (default: {value})" if value != "" else text
            parser.add_argument(flag, type=kind, default=value, metavar=metavar, help=shown)
    parser.add_argument("--with-parent", action="store_true",
                        help="end when standard input ends (for programs that start workers)")  # fmt: skip


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
