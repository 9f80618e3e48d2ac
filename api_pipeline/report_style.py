"""The looks of the page of ``report``: light and dark, on a desk, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #16202a; --soft: #52606d; --line: #c9d1d9; --box: #f3f6f9;
  --link: #0b5394; --alert: #a3180f;
  --sent: #1f6fb2; --failed: #c2410c; --doubt: #8a6a00; --testing: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12181f; --ink: #e6ebf0; --soft: #a9b4bf; --line: #3a4653; --box: #1b242e;
    --link: #8cc2ff; --alert: #ffa198;
    --sent: #5aa9e6; --failed: #ff9a5c; --doubt: #e3c04b; --testing: #a7b0ba;
  }
}
* { box-sizing: border-box; }
html { font: 100%/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem 1.25rem 2rem; background: var(--paper);
  color: var(--ink); }
h1 { margin: .5rem 0 0; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line);
  font-size: 1.3rem; }
.name, .id, code { font-family: ui-monospace, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.name { font-size: .85em; }
header p, .small, footer { color: var(--soft); }
header p { margin: .25rem 0 0; }
.small, footer { font-size: .9rem; }
.lead { font-size: 1.15rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 0; padding: 0;
  list-style: none; }
nav a { display: inline-block; padding: .25rem 0; color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1rem 0 1.5rem; }
.card { padding: .6rem .85rem; border: 1px solid var(--line); border-left: 4px solid var(--sent);
  border-radius: .3rem; background: var(--box); }
.card.alert { border-left: 4px dashed var(--alert); }
.card dt { color: var(--soft); font-size: .9rem; }
.card dd { margin: 0; font-size: 1.6rem; font-variant-numeric: tabular-nums; line-height: 1.3;
  overflow-wrap: anywhere; }
.card .note { display: block; color: var(--soft); font-size: .85rem; line-height: 1.35; }

.scroll { overflow-x: auto; margin: 1rem 0; }
.tall { max-height: 34rem; overflow-y: auto; border-bottom: 1px solid var(--line); }
.tall thead th { position: sticky; top: 0; background: var(--paper); box-shadow: 0 1px var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
caption { padding: 0 0 .4rem; font-weight: 600; text-align: left; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap; }
tbody th { font-weight: 400; }
thead th, tfoot th, tfoot td { font-weight: 600; }
tfoot th, tfoot td { border-bottom: 0; border-top: 2px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.text { min-width: 14rem; white-space: normal; overflow-wrap: anywhere; }
.bad { color: var(--alert); font-weight: 700; }
.id { font-size: .85em; }
td.bar { width: 40%; min-width: 6rem; padding-right: 0; vertical-align: middle; }
td.bar div { height: .9rem; min-width: 2px; }

.chart { margin: 1.25rem 0 1.75rem; }
figcaption { font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .25rem 0; font-size: .9rem; }
.key { display: inline-flex; align-items: center; gap: .4rem; }
.swatch { width: 1.1rem; height: 1.1rem; }
.plot { display: grid; grid-template-columns: minmax(4rem, auto) 1fr; gap: .25rem .5rem;
  margin-top: .5rem; }
.scale { display: flex; flex-direction: column; justify-content: space-between; color: var(--soft);
  font-size: .8rem; line-height: 1; text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.columns { display: flex; align-items: stretch; gap: 1px; height: 11rem; border-top: 1px dotted var(--line);
  border-bottom: 1px solid var(--soft); }
.column { display: flex; flex: 1 1 0; flex-direction: column-reverse; min-width: 0; }
.column div { flex: none; min-height: 2px; }
.dates { display: flex; grid-column: 2; justify-content: space-between; color: var(--soft);
  font-size: .8rem; }

.sent, .failed, .doubt, .testing { forced-color-adjust: none; -webkit-print-color-adjust: exact;
  print-color-adjust: exact; }
.sent { background: var(--sent); }
.failed { background: repeating-linear-gradient(45deg, var(--failed) 0 4px, var(--paper) 4px 7px);
  outline: 1px solid var(--failed); outline-offset: -1px; }
.doubt { background: repeating-linear-gradient(0deg, var(--doubt) 0 2px, var(--paper) 2px 5px);
  outline: 1px solid var(--doubt); outline-offset: -1px; }
.testing { background: repeating-linear-gradient(90deg, var(--testing) 0 2px, var(--paper) 2px 5px);
  outline: 1px solid var(--testing); outline-offset: -1px; }

footer { margin-top: 3rem; border-top: 1px solid var(--line); }
@media (max-width: 40rem) {
  body { padding: .75rem .9rem 1.5rem; }
  h1 { font-size: 1.35rem; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .columns { height: 8rem; }
  table { font-size: .85rem; }
  th, td { padding-right: .5rem; }
  td.bar { display: none; }
  .text { min-width: 9rem; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #ffffff; --ink: #000000; --soft: #333333; --line: #999999; --box: #ffffff; --link: #000000;
    --alert: #a3180f; --sent: #1f6fb2; --failed: #c2410c; --doubt: #8a6a00; --testing: #6b7280;
  }
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .scroll, .tall { max-height: none; overflow: visible; border: 0; }
  .tall thead th { position: static; box-shadow: none; }
  table { font-size: 8.5pt; }
  thead { display: table-header-group; }
  tfoot { display: table-row-group; }
  tr, .card, .chart, .scroll:not(.tall) table { break-inside: avoid; }
  h2 { break-after: avoid; }
  th, td { padding-right: .4rem; white-space: normal; }
  .number { white-space: nowrap; }
  .id { min-width: 6rem; font-size: 6.5pt; }
  .text { min-width: 0; }
  caption span { max-width: none; }
}
"""
