"""The cost of finding subjects in a collection of so many images: python bench/subjects.py 100000

Synthetic subjects, as alike as real ones: each is a smooth random head on which 32 slices walk from
one random pattern to another. Time is that of the recognition alone, of thumbnails that are there
already; peak memory is that of the process. Whether the subjects are found is measured too.
"""

import hashlib
import resource
import sys
import time

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import adjusted_rand_score

from alzmri.data import images, similarity, subjects

SLICES = 32
WALK = 8  # patterns that a subject's slices pass through


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


def main() -> None:
    count = int(sys.argv[1])
    thumbnails, truth = synthetic(count)
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    begin = time.perf_counter()
    links = similarity.forest(similarity.encode(thumbnails))
    found = subjects.from_pixels(links, digests)
    seconds = time.perf_counter() - begin
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    index = adjusted_rand_score(truth, found.names)
    print(f"{seconds:.1f} s, {gigabytes:.2f} GB, adjusted Rand index {index:.4f}")


if __name__ == "__main__":
    main()
