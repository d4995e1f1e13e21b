"""The template of DVC's plots page, with Vega inside: the page opens without a network."""

from pathlib import Path

import vl_convert

from alzmri.files import replacing

PAGE = Path(".dvc/plots.html")
"""Named by ``plots.html_template`` in ``.dvc/config``."""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>alzmri plots</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem;
         padding: 0 1rem; color: #1b1b1b; background: #fff; }}
  img {{ max-width: 100%; height: auto; }}
  /* The pictures of one plot beside each other, one per revision, where DVC has one long row. */
  div:has(> div > img) {{ display: flex; flex-wrap: wrap; gap: 0 1rem; margin-top: 1.5rem;
         border: 0 !important; border-top: 1px solid #ddd !important;
         text-align: left !important; white-space: normal !important; }}
  div:has(> div > img) > p {{ flex-basis: 100%; font-weight: 600; }}
  div:has(> img) {{ flex: 1 1 20rem; max-width: 38rem; border: 0 !important;
         margin: 0 !important; }}
  div:has(> img) > p {{ margin: 0 0 .5rem; color: #555; }}
  table {{ border-collapse: collapse; }}
  td, th {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; }}
</style>
<script>(() => {{{vega}}})();</script>
</head>
<body>
{{plot_divs}}
</body>
</html>
"""

_GLOBALS = "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;"
"""What the scripts of DVC's plots call."""


def write(path: Path = PAGE) -> None:
    """Write the template; DVC puts the plots where it says ``{plot_divs}``."""
    page = _TEMPLATE.format(vega=vl_convert.javascript_bundle(_GLOBALS, vl_version="5.21"))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
