"""The style of the report's page: two themes, colours that stay apart for the colour-blind."""

STAGE_COLOURS = {
    "front_end": "var(--c1)",
    "upload": "var(--c2)",
    "inference": "var(--c0)",
    "download": "var(--c4)",
    "trigger": "var(--c3)",
}

STYLE = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1d2330;--muted:#667085;--grid:#e7e9ee;--base:#b9bfca;
--warn:#9a3412;--warn-paper:#fff3e8;--c0:#2563b8;--c1:#e07b1f;--c2:#12917a;--c3:#8e4ec6;--c4:#c2376b;
--c5:#7a8c12;--c6:#1b9ac4;--c7:#7d5a44}
@media(prefers-color-scheme:dark){:root{--paper:#12151b;--card:#1a1f28;--ink:#e6e9ef;--muted:#98a2b3;
--grid:#2a303b;--base:#4a5261;--warn:#fdba74;--warn-paper:#33210f;--c0:#6ba3f0;--c1:#f3a052;
--c2:#3fc2a6;--c3:#bf94ee;--c4:#ee7ba4;--c5:#b5c94b;--c6:#5cc4e8;--c7:#c09a82}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1140px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em}
h1 span{color:var(--muted);font-weight:400}
h2{font-size:18px;margin:0 0 4px}
p{margin:0 0 12px}
code{font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,monospace;background:var(--card);
border:1px solid var(--grid);border-radius:6px;padding:4px 8px;display:inline-block;
overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0 0 8px;font-size:13.5px}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--grid);border-radius:12px;padding:20px 22px;
margin-top:20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:14px}
.tiles b{display:block;font-size:23px;line-height:1.25;font-weight:650;white-space:nowrap;
font-variant-numeric:tabular-nums}
.tiles span{color:var(--muted);font-size:12.5px;line-height:1.3;display:block}
.tiles+.note{margin:6px 4px 0}
.note{color:var(--muted);font-size:13px}
.warn{color:var(--warn);background:var(--warn-paper);border-radius:8px;padding:8px 12px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th{text-align:right;color:var(--muted);font-weight:500;white-space:nowrap}
th,td{padding:6px 7px;border-bottom:1px solid var(--grid)}
td{text-align:right}
td{white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:last-child,th:last-child{padding-right:0}
tbody tr:last-child td{border-bottom:0}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;margin:0 0 10px;
font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:7px}
.plain{color:var(--muted);font-size:13px;margin:8px 0 0;padding-left:18px}
.pair{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,380px),1fr));gap:14px}
figure{margin:8px 0 0}
figcaption{font-size:13px;font-weight:600}
svg{display:block;width:100%;height:auto;margin:8px 0}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;
fill:var(--muted)}
svg .name{fill:var(--ink);font-size:12.5px}
svg .inside{fill:var(--card);font-weight:600}
svg .middle{text-anchor:middle}
svg .end{text-anchor:end}
svg .grid{stroke:var(--grid)}
svg .base{stroke:var(--base)}
svg .mark{stroke:var(--ink);stroke-dasharray:3 3;opacity:.55}
svg .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
"""
