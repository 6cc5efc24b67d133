"""A Python queue under the same work: multiprocessing.Queue between two processes, asyncio.Queue inside one.

Reads the length of a slice in nanoseconds from standard input, line by line, and answers each with one line of JSON.
"""

import asyncio
import json
import multiprocessing
import os
import statistics
import struct
import sys
import time

NUMBER = struct.Struct("<Q")
LAST = (1 << 64) - 1
BLOCK = 20


class Reader:
    """Checks what comes: length, content, order."""

    def __init__(self, size):
        self.tail = bytes(index % 251 for index in range(size - 8))
        self.next = 0
        self.lost = self.out_of_order = self.corrupt = 0

    def see(self, message):
        """Whether it was the last one."""
        number = NUMBER.unpack_from(message)[0]
        if message[8:] != self.tail:
            self.corrupt += 1
        if number == LAST:
            return True
        if number > self.next:
            self.lost += number - self.next
        elif number < self.next:
            self.out_of_order += 1
        self.next = number + 1
        return False


def result(reader, ns, ops):
    return {
        "ns": ns,
        "ops": ops,
        "lost": reader.lost,
        "out_of_order": reader.out_of_order,
        "corrupt": reader.corrupt,
    }


def other(size, core, there, back, latency):
    """The second process: answers each message, or counts them."""
    os.sched_setaffinity(0, [core])
    while True:
        reader = Reader(size)
        begun, count, last = None, 0, False
        while not last:
            message = there.get()
            if message is None:
                return
            last = reader.see(message)
            if latency:
                back.put(message)
                continue
            count += 1
            begun = begun or time.perf_counter_ns()
        if not latency:
            back.put(result(reader, (time.perf_counter_ns() - begun) / max(count - 1, 1), count))


def two_processes(size, cores, latency):
    there, back = multiprocessing.Queue(), multiprocessing.Queue()
    child = multiprocessing.Process(target=other, args=(size, cores[1], there, back, latency), daemon=True)
    child.start()
    os.sched_setaffinity(0, [cores[0]])
    tail = Reader(size).tail
    for line in sys.stdin:
        until = time.perf_counter_ns() + int(line)
        number, blocks, reader = 0, [], Reader(size)
        while time.perf_counter_ns() < until:
            begun = time.perf_counter_ns()
            for _ in range(BLOCK):
                there.put(NUMBER.pack(number) + tail)
                number += 1
                if latency:
                    reader.see(back.get())
            blocks.append((time.perf_counter_ns() - begun) / (2 * BLOCK))
        there.put(NUMBER.pack(LAST) + tail)
        answer = back.get()
        answer = result(reader, statistics.median(blocks), number) if latency else answer
        print(json.dumps(answer), flush=True)
    there.put(None)


async def one_process(size, latency):
    there, back = asyncio.Queue(10_000), asyncio.Queue(10_000)
    tail = Reader(size).tail

    async def serve():
        reader = Reader(size)
        while True:
            message = await there.get()
            if latency:
                await back.put(message)
            elif reader.see(message):
                await back.put(reader)
                reader = Reader(size)

    task = asyncio.create_task(serve())
    for line in sys.stdin:
        begun = time.perf_counter_ns()
        until, number, reader = begun + int(line), 0, Reader(size)
        while time.perf_counter_ns() < until:
            for _ in range(BLOCK):
                await there.put(NUMBER.pack(number) + tail)
                number += 1
                if latency:
                    reader.see(await back.get())
        if latency:
            ns = (time.perf_counter_ns() - begun) / (2 * number)
        else:
            await there.put(NUMBER.pack(LAST) + tail)
            reader = await back.get()
            ns = (time.perf_counter_ns() - begun) / number
        print(json.dumps(result(reader, ns, number)), flush=True)
    task.cancel()


def main():
    kind, work, size, first, second = sys.argv[1:]
    latency = work == "latency"
    if kind == "multiprocessing":
        two_processes(int(size), (int(first), int(second)), latency)
    else:
        os.sched_setaffinity(0, [int(first)])
        asyncio.run(one_process(int(size), latency))


main()
