"""The cost of finding subjects: time and memory as a collection grows.

    python bench/subjects.py [IMAGES ...]

Synthetic subjects, as alike as real ones: each is a smooth random head on which 32 slices walk from
one random pattern to another. Every size runs in a process of its own, whose peak memory is that of
Python, the libraries, the thumbnails and the recognition. Time is that of the recognition alone, of
thumbnails that are there already. Whether the subjects are found is measured too.
"""

import argparse
import hashlib
import multiprocessing
import resource
import time

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import adjusted_rand_score

from alzmri.data import images, similarity, subjects

SIZES = (6_000, 25_000, 100_000)
SLICES = 32
WALK = 8
"""Patterns that a subject's slices pass through."""


def synthetic(count: int) -> tuple[similarity.Thumbnails, list[int]]:
    """uint8 ``[count, side, side]`` and the subject on each, in random order."""
    generator = np.random.default_rng(0)
    side = images.THUMBNAIL_SIDE
    thumbnails = np.empty((count, side, side), np.uint8)
    order = generator.permutation(count)
    common = 3 * gaussian_filter(generator.standard_normal((side, side)), 3)
    for first in range(0, count, SLICES):
        mine = order[first : first + SLICES]
        patterns = gaussian_filter(generator.standard_normal((WALK, side, side)), (0, 1.5, 1.5))
        at = np.arange(len(mine)) * (WALK - 1) / SLICES
        low, share = at.astype(int), (at % 1)[:, None, None]
        walked = (1 - share) * patterns[low] + share * patterns[low + 1]
        heads = 128 + 200 * (common + patterns[:1] + walked)
        heads += generator.normal(0, 2, heads.shape)
        thumbnails[mine] = np.clip(heads, 0, 255)
    truth = np.empty(count, np.int64)
    truth[order] = np.arange(count) // SLICES
    return thumbnails, truth.tolist()


def measure(count: int) -> tuple[float, float, float]:
    """Seconds, peak memory (GB) and adjusted Rand index for ``count`` images."""
    thumbnails, truth = synthetic(count)
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    begin = time.perf_counter()
    links = similarity.forest(similarity.encode(thumbnails))
    found = subjects.from_pixels(links, digests)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return seconds, peak, float(adjusted_rand_score(truth, found.names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=int, default=SIZES, help="sizes to measure")
    print("| images | seconds | ns per pair | peak memory, GB | adjusted Rand index |")
    print("|---:|---:|---:|---:|---:|")
    spawn = multiprocessing.get_context("spawn")
    for count in parser.parse_args().images:
        with spawn.Pool(1) as pool:
            seconds, peak, index = pool.apply(measure, (count,))
        each = seconds / (count * (count - 1) / 2) * 1e9
        print(f"| {count:,} | {seconds:.1f} | {each:.0f} | {peak:.2f} | {index:.4f} |", flush=True)


if __name__ == "__main__":
    main()
