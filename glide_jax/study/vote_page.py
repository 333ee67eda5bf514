"""Renders the page on which a rater chooses between pictures: one file, no network.

It is stored beside the folder pairs/. The keys 1, 2 and 3 answer, Backspace goes back.
Answers are stored in the browser, by study: in localStorage and in the history state of
the tab. They are saved as answers.csv, which has the columns of sheet.csv.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Question(NamedTuple):
    """A question, and whether the prompt is shown with it."""

    text: str
    shows_prompt: bool


def render(
    study: str, questions: Mapping[str, Question], rows: Sequence[Mapping[str, str]]
) -> str:
    """Returns the page for these rows (pair, prompt, question), in their order."""
    data = {
        "study": study,
        "questions": {name: question._asdict() for name, question in questions.items()},
        "rows": list(rows),
    }
    # In a script element only "<" can end it or open a comment.
    text = json.dumps(data).replace("<", "\\u003c")
    return (
        _PAGE.replace("{STYLE}", _STYLE)
        .replace("{SCRIPT}", _SCRIPT)
        .replace("{TITLE}", html.escape(f"Study {study}"))
        .replace("{DATA}", text)
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<p id="count" aria-live="polite"></p>
<progress id="progress" value="0"></progress>
<section id="vote">
<h1 id="question"></h1>
<p id="prompt"></p>
<div id="pictures">
<img id="left" alt="left picture"><img id="right" alt="right picture">
</div>
<p id="trouble" role="alert"></p>
<div id="answers">
<button data-answer="left">Left <kbd>1</kbd></button>
<button data-answer="neither">Neither <kbd>2</kbd></button>
<button data-answer="right">Right <kbd>3</kbd></button>
</div>
</section>
<section id="end" hidden>
<h1>That was all. Thank you!</h1>
<p>Now save your answers and send the file to whoever asked you.</p>
</section>
<p id="tools">
<button id="back">Back <kbd>Backspace</kbd></button>
<button id="save">Save answers.csv</button>
</p>
</main>
<script type="application/json" id="data">{DATA}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; font: 17px/1.45 system-ui, sans-serif; }
body { margin: 0; background: #fafaf8; color: #1c1c1e; }
main { max-width: 46rem; margin: 0 auto; padding: 1.2rem; text-align: center; }
h1 { font-size: 1.35rem; margin: .8rem 0 .3rem; }
progress { width: 100%; height: .5rem; }
#count { margin: 0; color: #606066; }
#prompt { min-height: 1.45em; margin: .2rem 0 .8rem; font-style: italic; }
#pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
#pictures img { width: 100%; aspect-ratio: 1; object-fit: contain;
  max-height: max(8rem, calc(100vh - 19rem));
  background: #e4e4e0; }
#answers { display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 1rem;
  margin: 1rem 0; }
button { font: inherit; padding: .7rem; border: 1px solid #b8b8b2; border-radius: .4rem;
  background: #fff; color: #1c1c1e; cursor: pointer; }
button:hover:enabled { background: #ececff; }
button:disabled { opacity: .45; cursor: default; }
button.chosen { border-color: #3b3bd0; box-shadow: 0 0 0 2px #3b3bd0; }
kbd { font: .8em ui-monospace, monospace; color: #606066; }
#trouble { color: #b00020; min-height: 1.45em; margin: .4rem 0 0; }
#tools { display: flex; justify-content: space-between; }
#tools button { padding: .35rem .8rem; font-size: .9rem; }
@media (prefers-color-scheme: dark) {
  body { background: #161618; color: #eee; }
  button { background: #242428; color: #eee; border-color: #55555c; }
  button:hover:enabled { background: #33334a; }
  #pictures img { background: #303034; }
  #count, kbd { color: #a0a0a8; }
  #trouble { color: #ff8a95; }
}
"""

_SCRIPT = """
"use strict";
const { study, questions, rows } = JSON.parse($("data").textContent);
const STORE = "glide_jax vote " + study;
const NOTHING = { time: 0, answers: {} };
const KEYS = { 1: "left", 2: "neither", 3: "right" };
let answers = {};   // "question pair" -> answer
let place = 0;      // index into rows; rows.length is the end
let keeps = true;   // whether the browser lets the page keep anything
const seen = new Set();  // the sides whose pictures can be seen

function $(id) { return document.getElementById(id); }
function name(row) { return row.question + " " + row.pair; }
function picture(row, side) { return "pairs/" + row.pair + "_" + side + ".png"; }

function recall() {
  let stored = NOTHING;
  try { stored = JSON.parse(localStorage.getItem(STORE)) || NOTHING; }
  catch (error) { keeps = false; }
  // Chromium can give a page that is reloaded at once an older localStorage.
  const own = (history.state || {})[STORE] || NOTHING;
  const [older, newer] = own.time < stored.time ? [own, stored] : [stored, own];
  answers = { ...older.answers, ...newer.answers };
  place = rows.findIndex(row => !answers[name(row)]);
  if (place < 0) place = rows.length;
}

function keep() {
  const kept = { time: Date.now(), answers };
  try { localStorage.setItem(STORE, JSON.stringify(kept)); }
  catch (error) { keeps = false; }
  // Browsers limit how often the history changes; localStorage is then newer.
  try { history.replaceState({ ...history.state, [STORE]: kept }, ""); }
  catch (error) { /* localStorage has the answers */ }
}

function show() {
  const row = rows[place], isEnd = !row;
  const done = rows.filter(row => answers[name(row)]).length;
  $("count").textContent = done + " of " + rows.length + " answered"
    + (keeps ? "" : " - this browser keeps nothing: do not close the page before "
       + "saving");
  $("progress").max = rows.length;
  $("progress").value = done;
  $("vote").hidden = isEnd;
  $("end").hidden = !isEnd;
  $("back").disabled = place === 0;
  if (isEnd) return;
  const question = questions[row.question];
  $("question").textContent = question.text;
  $("prompt").textContent = question.shows_prompt ? row.prompt : "";
  $("trouble").textContent = "";
  seen.clear();
  enable();
  for (const side of ["left", "right"]) $(side).src = picture(row, side);
  for (const button of document.querySelectorAll("[data-answer]"))
    button.classList.toggle("chosen", button.dataset.answer === answers[name(row)]);
}

// No answer counts before both pictures were seen.
function enable() {
  for (const button of document.querySelectorAll("[data-answer]"))
    button.disabled = seen.size < 2;
}

function answer(choice) {
  if (place >= rows.length || seen.size < 2) return;
  answers[name(rows[place])] = choice;
  keep();
  place += 1;
  show();
  preload();
}

function back() {
  if (place > 0) { place -= 1; show(); }
}

function preload() {
  const row = rows[place + 1];
  if (row) for (const side of ["left", "right"]) new Image().src = picture(row, side);
}

function quoted(text) { return '"' + text.replaceAll('"', '""') + '"'; }

function save() {
  const lines = [["study", "pair", "prompt", "question", "answer"]];
  for (const row of rows)
    lines.push([study, row.pair, row.prompt, row.question, answers[name(row)] || ""]);
  const text = lines.map(line => line.map(quoted).join(",") + "\\r\\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

for (const side of ["left", "right"]) {
  $(side).onload = () => { seen.add(side); enable(); };
  $(side).onerror = () => {
    $("trouble").textContent = $(side).getAttribute("src")
      + " cannot be shown; keep the folder pairs beside this page";
  };
}
for (const button of document.querySelectorAll("[data-answer]"))
  button.onclick = () => answer(button.dataset.answer);
$("back").onclick = back;
$("save").onclick = save;
addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in KEYS) answer(KEYS[event.key]);
  else if (event.key === "Backspace") { event.preventDefault(); back(); }
});
recall();
show();
preload();
"""
