"""What the page looks like: its skeleton, its style and its few lines of script."""

from __future__ import annotations

from typing import Final

SHEET: Final = """
:root { color-scheme: light dark;
  --page: #fff; --ink: #1c2128; --soft: #57606a; --line: #d5dae0; --panel: #f5f7f9; --focus: #0a58ca;
  --small: #1a7f37; --fallback: #c9312b; --rollback: #1f62d0; --window: #a626a4; --large: #57606a; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14181d; --ink: #e4e8ed; --soft: #9aa4af; --line: #333b44; --panel: #1c2229; --focus: #8ab4ff;
  --small: #4cc26b; --fallback: #ff7069; --rollback: #6ea8ff; --window: #e07be0; --large: #a3aab5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1100px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 40px 0 8px; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 28px 0 6px; }
p, li, figcaption { overflow-wrap: anywhere; } p, li { max-width: 52rem; }
.note { color: var(--soft); font-size: .88rem; margin: 6px 0; }
nav ul { padding-left: 1.2em; margin: 6px 0; } a { color: var(--focus); }
:focus-visible { outline: 2px solid var(--focus); outline-offset: 2px; border-radius: 3px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
tbody th { white-space: normal; min-width: 8.5em; max-width: 20em; }
td.words { white-space: normal; min-width: 7em; max-width: 20em; overflow-wrap: anywhere; }
thead th { white-space: normal; vertical-align: bottom; border-top: 0; background: var(--panel); font-weight: 600; }
th:first-child, td:first-child, tbody th, .words { text-align: left; } tbody th { font-weight: 500; }
tr > :first-child { position: sticky; left: 0; background: var(--page); }
thead tr > :first-child { background: var(--panel); }
figure { margin: 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; min-width: 440px; max-width: 640px; }
summary { cursor: pointer; color: var(--soft); font-size: .88rem; padding: 4px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 14px; margin: 8px 0; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, monospace; background: var(--panel); padding: 1px 4px; border-radius: 4px; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: .88rem; }
.text { margin: 12px 0; padding: 10px 12px; background: var(--panel); border-radius: 8px; }
.text p { margin: 4px 0; } .id { color: var(--soft); font-size: .82rem; }
.tokens { white-space: pre-wrap; line-height: 1.9; }
.says { min-height: 1.5em; color: var(--soft); font-size: .82rem; }
.t { border-radius: 2px; text-decoration-thickness: 2px; text-underline-offset: 4px; }
.t:hover, .t.on { background: var(--line); } .t.on { outline: 2px solid var(--focus); }
.small { color: var(--small); }
.fallback { color: var(--fallback); text-decoration-line: underline; }
.window { color: var(--window); text-decoration-line: underline; text-decoration-style: double; }
.rollback { color: var(--rollback); text-decoration-line: underline; text-decoration-style: wavy; }
.large { color: var(--large); text-decoration-line: underline; text-decoration-style: dotted; }
@media (max-width: 600px) { th, td { padding: 5px 7px; } tbody th { min-width: 7em; } }
@media print { body { max-width: none; } .scroll { overflow: visible; } .says { display: none; } }
"""

SCRIPT: Final = """
for (const text of document.querySelectorAll('.tokens')) {
  const tokens = [...text.querySelectorAll('.t')], says = text.parentElement.querySelector('.says');
  let at = -1;
  const show = (i) => {
    tokens[at]?.classList.remove('on');
    at = Math.max(0, Math.min(i, tokens.length - 1));
    tokens[at]?.classList.add('on');
    says.textContent = tokens[at] ? `${at + 1}: ${tokens[at].textContent.trim()} (${tokens[at].title})` : '';
  };
  text.addEventListener('keydown', (event) => {
    const step = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (step !== undefined) { show(step); event.preventDefault(); }
  });
  text.addEventListener('click', (event) => { const i = tokens.indexOf(event.target); if (i >= 0) show(i); });
}
"""

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{{ digest }}'; base-uri 'none';
 form-action 'none'">
<title>BiLD: tables and figures</title>
<style>{{ sheet }}</style>
</head>
<body>
<h1>Big Little Decoder: tables and figures of these runs</h1>
<p class="note">Figures, and tables 1 and 5, have the numbers of the paper (Kim et al., NeurIPS 2023, arXiv 2302.07863);
tables 2 to 4 have this report's own.</p>
{% if parts | length > 1 %}
<nav aria-label="Runs">
<ul>{% for part in parts %}<li><a href="#study-{{ loop.index }}">{{ part.title }}</a></li>{% endfor %}</ul>
</nav>
{% endif %}
<main>
{% for part in parts %}
{% set study = loop.index %}
<section id="study-{{ study }}" aria-labelledby="title-{{ study }}">
<h2 id="title-{{ study }}">{{ part.title }}</h2>
{% if part.ran_on %}
<details><summary>What it was measured on</summary>
<dl>{% for name, value in part.ran_on.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</details>
{% endif %}
{% for table in part.tables %}
<h3>{{ table.heading }}</h3>
{% if table.says %}<ul>{% for said in table.says %}<li>{{ said }}</li>{% endfor %}</ul>{% endif %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.heading }}">
<table>
<thead><tr>
{% for cell in table.head %}
<th scope="col"{% if cell in worded %} class="words"{% endif %}>{{ cell }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}
<td{% if table.head[loop.index] in worded %} class="words"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="note">{{ table.note }}</p>
{% endfor %}
{% for chart in part.charts %}
<h3>Figure {{ chart.number }}. {{ chart.title }}</h3>
<figure tabindex="0" role="img" aria-label="{{ chart.title }}">{{ drawn(chart.svg) }}</figure>
<details><summary>In words</summary><p class="note">{{ chart.says }}</p></details>
{% endfor %}
{% if part.texts %}
<h3>Figure 9. Who wrote which token</h3>
<ul class="legend">
{% for source, sign, meaning in legend %}
<li><span class="t {{ source }}">{{ source }}</span> ({{ sign }}): {{ meaning }}</li>
{% endfor %}
</ul>
<p class="note">Point at a token, or focus a text and use the arrow keys, for confidence and distance.</p>
{% for text in part.texts %}
<div class="text">
<p class="id">{{ text.id }}, {{ text.setting }}</p>
<p class="tokens" tabindex="0" aria-label="Tokens of text {{ text.id }}">
{%- for token in text.tokens -%}
<span class="t {{ token.source }}" title="{{ token.says }}">{{ token.text }}</span>
{%- endfor -%}
</p>
<p class="says" aria-live="polite"></p>
{% if not text.spelled %}<p>{{ text.text }}</p>{% endif %}
{% if text.large %}<p class="note">Large alone: {{ text.large }}</p>{% endif %}
</div>
{% endfor %}
{% endif %}
{% for note in part.notes %}<p class="note">{{ note }}</p>{% endfor %}
{% if part.lacks %}
<details><summary>What is left out, and what would fill it</summary>
<ul>{% for lack in part.lacks %}<li>{{ lack.what }}: <code>{{ lack.command }}</code></li>{% endfor %}</ul>
</details>
{% endif %}
</section>
{% endfor %}
</main>
<script>{{ script }}</script>
</body>
</html>
"""
