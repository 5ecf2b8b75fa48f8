"""The style of the report's page: one column, two where there is room, light and dark, and on paper."""

STYLE = """
:root{--ink:#1b1f24;--soft:#59636e;--line:#dfe3e8;--paper:#fff;--card:#f5f7f9;--a:#0b62c4;--b:#b3470a;--c:#1a7f4b;
--d:#7a3fb0}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebee;--soft:#a3adb8;--line:#343b44;--paper:#14171b;--card:#1e2329;
--a:#6cb0ff;--b:#ffa05c;--c:#5fd194;--d:#c79bf2}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:74rem;margin:0 auto;padding:2rem 1.25rem 4rem}
header p{margin:0;color:var(--soft)}
h1{margin:.1rem 0 .2rem;font-size:1.7rem;line-height:1.2;overflow-wrap:anywhere}
h2{margin:2.4rem 0 .6rem;font-size:1.2rem;border-top:1px solid var(--line);padding-top:1.1rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(12rem,1fr));gap:.8rem;margin:1.6rem 0 1rem}
.cards div{background:var(--card);border-radius:8px;padding:.8rem 1rem}
dt{color:var(--soft);font-size:.9rem}
dd{margin:0;font-size:1.7rem;font-weight:600;font-variant-numeric:tabular-nums}
dd small{display:block;font-size:.85rem;font-weight:400;color:var(--soft)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(26rem,100%),1fr));gap:1.2rem 2rem}
figure{margin:0}
figcaption{font-weight:600;margin-bottom:.2rem}
figure p{margin:.2rem 0 0;color:var(--soft);font-size:.92rem}
figure svg{width:100%;height:auto;font-size:12px;font-family:inherit}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.9rem}
.legend svg{width:26px;vertical-align:middle}
.table{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.95rem}
th,td{padding:.3rem .9rem .3rem 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{color:var(--soft);font-weight:500}
th:first-child{text-align:left;font-weight:500}
td.words{text-align:left;color:var(--soft)}
code,pre{font:.88rem ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{background:var(--card);padding:.8rem 1rem;border-radius:8px;overflow:auto;max-height:28rem}
summary{cursor:pointer}
@media print{details,figure{break-inside:avoid}body{font-size:12px}}
"""
