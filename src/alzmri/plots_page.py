"""The template of DVC's plots page. It contains Vega, so that the page needs no network."""

from pathlib import Path

import vl_convert

from alzmri.files import write_bytes

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>alzmri plots</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; }}
  img {{ max-width: 100%; height: auto; }}
  /* Wrap the pictures of one plot, one per revision, which DVC puts in one long row. */
  div:has(> div > img) {{ display: flex; flex-wrap: wrap; white-space: normal !important; }}
  div:has(> div > img) > p {{ flex-basis: 100%; font-weight: 600; }}
  div:has(> img) {{ flex: 1 1 20rem; max-width: 38rem; border: 0 !important; }}
</style>
<script>(() => {{{vega}}})();</script>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""


def write() -> None:
    """Write the file that ``.dvc/config`` names; DVC replaces ``{plot_divs}`` by the plots."""
    # The scripts of DVC's plots use these names.
    call = "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;"
    vega = vl_convert.javascript_bundle(call, vl_version="5.21")
    write_bytes(Path(".dvc/plots.html"), _TEMPLATE.format(vega=vega).encode())
