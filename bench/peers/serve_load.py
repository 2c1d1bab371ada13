#!/usr/bin/env python3
"""Many clients at one server: errors, latency, tokens per second and memory, for `spillway serve` and for llama.cpp's server.

    serve_load.py URL [--clients 64] [--seconds 600] [--tokens 64] [--words 16,64,256,512] [--pid PID] [--seed 0]

Every client sends completions one after the other, prompts of 16 to 512 words drawn from a seed, greedy, streamed, until the time is over. With
few words and many tokens decoding is what takes the time, and not the reading of prompts. The
first tenth of the time is not counted. Prints one JSON document: requests, errors, tokens per second in all, median and 95th percentile of the
time to the first token and between tokens; with --pid the resident memory of the process at the beginning and at the end, in MB.
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
from urllib.parse import urlparse

WORDS = "the of and to in that he shall unto for I his a lord they be is him not them it with all thou thy was god which my me".split()


def resident(pid):
    """Resident memory of a process in MB."""
    if pid is None:
        return None
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmRSS"))


def client(url, options, number, until, counted, results):
    """One client's requests."""
    draw = random.Random(options.seed * 1000 + number)
    while time.monotonic() < until:
        prompt = " ".join(draw.choice(WORDS) for _ in range(draw.choice(options.words)))
        body = {"prompt": prompt, "max_tokens": options.tokens, "temperature": 0, "stream": True, "model": "any"}
        begin = time.monotonic()
        times, error = [], None
        try:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=300)
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                error = f"{response.status}: {response.read()[:200]!r}"
            done = response.status != 200
            for line in response:
                if line.startswith(b'data: {"error"'):
                    error = line.decode(errors="replace").strip()
                elif line.startswith(b"data: {"):
                    times.append(time.monotonic())
                done = done or line.startswith(b"data: [DONE]")
            if not (done or error):
                error = f"the answer ended after {len(times)} pieces and without [DONE]"
            connection.close()
        except (OSError, http.client.HTTPException) as problem:
            error = repr(problem)
        if begin >= counted:
            results.append((begin, times, error))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=64, help="default 64")
    parser.add_argument("--seconds", type=float, default=600, help="default 600")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, default 64")
    words = lambda text: [int(count) for count in text.split(",")]
    parser.add_argument("--words", type=words, default=[16, 64, 256, 512], help="of a prompt, one of these each, default 16,64,256,512")
    parser.add_argument("--pid", type=int, help="the server's process")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    url = urlparse(options.url)
    begin = time.monotonic()
    counted, until = begin + 0.1 * options.seconds, begin + options.seconds
    results = []
    threads = [
        threading.Thread(target=client, args=(url, options, number, until, counted, results))
        for number in range(options.clients)
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, counted - time.monotonic()))
    memory = resident(options.pid)
    for thread in threads:
        thread.join()
    first = sorted(times[0] - begin for begin, times, _ in results if times)
    gaps = sorted(b - a for _, times, _ in results for a, b in zip(times, times[1:]))
    end = max((times[-1] for _, times, _ in results if times), default=counted)
    share = lambda values, part: round(1000 * values[int(part * (len(values) - 1))], 1) if values else None
    errors = [error for *_, error in results if error]
    print(json.dumps({
        "clients": options.clients,
        "requests": len(results),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "pieces_per_second": round(sum(len(times) for _, times, _ in results) / (end - counted), 1),
        "first_piece_ms": {"median": share(first, 0.5), "p95": share(first, 0.95)},
        "between_pieces_ms": {"median": share(gaps, 0.5), "p95": share(gaps, 0.95)},
        "mean_pieces": round(statistics.mean(len(times) for _, times, _ in results), 1) if results else None,
        "resident_mb": {"begin": memory, "end": resident(options.pid)},
    }, indent=1))


if __name__ == "__main__":
    main()
