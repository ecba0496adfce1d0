// What people do with the drawing, and what it tells them: choosing, moving, the details, the text.

// The details.
function tell(title, rows, line) {
  const box = $("details");
  box.replaceChildren(make("h3", title));
  if (line) box.append(make("p", line));
  if (!rows.length) return;
  const table = make("table");
  for (const row of rows) {
    const tr = make("tr");
    row.forEach((entry, i) => {
      const td = make(i || row.head !== undefined ? "td" : "th");
      td.append(entry instanceof Node ? entry : document.createTextNode(entry));
      tr.append(td);
    });
    table.append(tr);
  }
  box.append(table);
}
const times = (b) => {
  const wire = b.wire_ns ? `, ${span(b.wire_ns)} on the wire` : "";
  return `${span(b.start)} to ${span(b.end)}: ${span(b.end - b.start)} computed${b.first ? " (with the prompt)" : ""}, ` +
    `${span(b.start - b.came)} queued${wire}. Epoch ${b.epoch}, command ${b.seq}` +
    (b.seen - b.back > 1e5 ? `, taken up ${span(b.seen - b.back)} after it came` : "") + ".";
};
function coloured(text, source) {
  return make("span", text, source);
}
function tellBlock(r, b) {
  if (b.kind === "check") return tellCheck(r, b);
  if (!b.cells.length && !b.low) {
    const what = b.kind === "stopped" ? `a draft that was taken back: ${b.passes} passes for nothing` : "the prompt is read";
    return tell(`${b.role} model: ${what}`, [], `About ${span(b.start)} to ${span(b.end)}, ${span(b.end - b.start)}.`);
  }
  const title = `${b.role} model ${b.kind === "write" ? "writes" : "drafts"} ${b.cells.length} token${b.cells.length === 1 ? "" : "s"}` +
    (b.low ? ", then is unsure" : b.final ? "" : ", goes on");
  const rows = b.cells.map((c) => [
    coloured(quoted(word(c.token)), c.fate === "stood" ? sourceAt(r, c.position) : ""),
    `at ${c.position}`, `p ${number(c.confidence)}`, outcome(r, c),
  ]);
  if (b.low) rows.push([coloured(quoted(word(b.low[0])), ""), `at ${b.cells.length ? b.cells[b.cells.length - 1].position + 1 : "the next"}`,
    `p ${number(b.low[1])}`, "too unsure: left to the large model"]);
  return tell(title, rows, times(b));
}
function outcome(r, c) {
  const chip = r.chips[c.position];
  if (c.fate === "stood" && chip) return chip.source === "small" ? "stands" : `stands: a right guess for ${chip.source}`;
  if (c.fate === "replaced" && chip) return `${chip.source}: became ${quoted(word(chip.token))}`;
  return FATES[c.fate];
}
function tellCheck(r, b) {
  const c = b.check, rows = [];
  c.exact.forEach((exact, i) => {
    const chip = r.chips[c.position + i], swap = r.swaps.find((s) => s.block === b.index && s.position === c.position + i);
    const how = exact ? "exactly" : "softly";
    if (i < c.accepted && chip) rows.push([coloured(quoted(word(chip.token)), chip.source), `at ${c.position + i}`, `${how}, distance ${number(c.distances[i])}`, "stands"]);
    else if (i === c.accepted && chip) rows.push([coloured(quoted(word(chip.token)), chip.source), `at ${c.position + i}`, `${how}, distance ${number(c.distances[i])}`,
      swap ? `instead of ${quoted(word(swap.old))}${swap.fell ? `; ${swap.fell} behind it fell` : ""}` : "written instead"]);
  });
  const next = c.position + c.exact.length;
  if (c.accepted === c.exact.length && c.token >= 0) rows.push([coloured(quoted(word(c.token)), sourceAt(r, next)), `at ${next}`, "", "the large model's own"]);
  const left = c.exact.length - c.accepted - 1;
  tell(c.exact.length ? `large model checks ${c.exact.length}: ${c.accepted} stand${left > 0 ? `, ${left} not looked at` : ""}` : "large model writes its own token", rows, times(b));
}
function tellChip(r, i) {
  const c = r.chips[i], b = r.blocks[c.block], swap = r.swaps.find((s) => s.position === i);
  const why = {
    small: "the small model's", fallback: "the large model's: the small one was unsure", large: "the large model's",
    window: "the large model's: the small one had written a whole window", rollback: "the large model's: it objected",
  }[c.source];
  const rows = [["position", String(i)], ["id", String(c.token)]];
  if (c.confidence !== null) rows.push(["confidence", number(c.confidence)]);
  if (c.distance !== null) rows.push(["distance", `${number(c.distance)} nats`]);
  if (swap) rows.push(["instead of", quoted(word(swap.old)) + (swap.fell ? `; ${swap.fell} behind it fell` : "")]);
  rows.push(["text after", span(c.at - r.from)]);
  if (b) rows.push(["decided by", `${b.role} model, ${b.kind}, ${span(b.start)} to ${span(b.end)}`]);
  tell(`${quoted(word(c.token))} – ${why}`, rows);
}
function tellNothing() {
  const r = requests[chosen];
  tell(r ? "Nothing selected" : "Nothing was recorded", [], r ? "Point at a pass, a token or a wait, or step through the passes with N and P." : "No request got as far as a worker.");
}

// Selecting. A mark is a block, a token of the text or a wait; pinned ones stay when the pointer leaves.
let pinned = null;
function show(what) {
  mark = what;
  const r = requests[chosen];
  if (!what) tellNothing();
  else if (what.chip !== undefined) tellChip(r, what.chip);
  else if (what.block) tellBlock(r, what.block);
  else if (what.wait) tell(`The orchestrator waits for the ${what.wait.roles.join(" and the ")} model`, [], `${span(what.wait.from)} to ${span(what.wait.to)}: ${span(what.wait.to - what.wait.from)}.`);
  light();
  redraw();
}
function pin(what) {
  pinned = what;
  show(what);
}
let lit = [];
function light() {
  const spans = $("text").children, r = requests[chosen];
  for (const element of lit) element.classList.remove("hot", "same");
  lit = [];
  if (!mark || !r) return;
  const block = mark.block ?? (mark.chip !== undefined ? r.blocks[r.chips[mark.chip].block] : null);
  for (const i of block ? block.chips : []) if (spans[i]) lit.push(spans[i]), spans[i].classList.add("same");
  if (mark.chip !== undefined && spans[mark.chip]) lit.push(spans[mark.chip]), spans[mark.chip].classList.add("hot");
}
function step(by) {
  const r = requests[chosen], at = mark && mark.block ? r.steps.indexOf(mark.block) : -1;
  const first = by > 0 ? seek(r.steps, view.from, (b) => b.start) : seek(r.steps, view.to, (b) => b.start) - 1;
  const block = r.steps[Math.min(Math.max(at < 0 ? first : at + by, 0), r.steps.length - 1)];
  if (!block) return;
  pin({ request: r, block });
  reveal(block.start, block.end);
}
function choose(i, keep = false) {
  if (i < 0 || i >= requests.length) return;
  chosen = i;
  $("requests").value = String(i);
  const r = requests[i], y = AXIS + i * FLAT;
  if (y < scroll.scrollTop + AXIS || y + TALL > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = y - AXIS;
  $("prompt").textContent = r.prompt;
  $("prompt").scrollTop = $("prompt").scrollHeight;
  figures(r);
  words(r);
  pin(null);
  if (!keep) whole();
}
const began = requests.reduce((t, r) => Math.min(t, r.from), Infinity), ended = requests.reduce((t, r) => Math.max(t, r.to), 0);
const busy = (role) => requests.reduce((sum, r) => sum + r.totals[`${role}_busy_ns`], 0);
function figures(r) {
  const t = r.totals, list = $("figures");
  const first = r.chips.length ? span(r.chips[0].at - r.from) : "–";
  list.replaceChildren();
  for (const [value, name] of [
    [r.end || "not recorded", "ended by"], [String(t.tokens), "tokens"], [span(t.wall_ns), "wall clock"],
    [t.tokens ? ((t.tokens * 1e9) / t.wall_ns).toFixed(1) : "–", "tokens a second"], [first, "first token"],
    [number(t.large_passes_a_token), "large passes a token"], [share(t.small_busy_ns, t.wall_ns), "small model busy"],
    [share(t.large_busy_ns, t.wall_ns), "large model busy"], [`${t.wasted} of ${t.drafted} (${share(t.wasted, t.drafted)})`, "drafted tokens wasted"],
    [String(t.rollbacks), "rollbacks"], [share(t.waited_ns.both, t.wall_ns), "both at work"], [share(t.own_ns, t.wall_ns), "orchestrator itself"],
    ...(requests.length > 1 ? ["small", "large"].map((role) => [share(busy(role), ended - began), `${role} busy, all requests`]) : []),
  ]) {
    const item = make("li");
    item.append(make("span", name), make("b", value));
    list.append(item);
  }
}
function words(r) {
  const parts = document.createDocumentFragment();
  r.chips.forEach((c, i) => {
    const element = make("span", c.text || "▫", c.text ? c.source : `${c.source} mute`);
    element.dataset.i = i;
    parts.append(element);
  });
  $("text").replaceChildren(parts);
}

// Pointers: one moves, two zoom.
const fingers = new Map();
let moved = 0;
const local = (event) => {
  const box = chart.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};
const same = (a, b) => a === b || (a && b && a.block === b.block && a.chip === b.chip && a.wait === b.wait);
function under({ x: px, y }) {
  let found = null;
  for (const h of hits)
    if (px >= h.x - 2 && px <= h.x + h.w + 2 && y >= h.y && y < h.y + h.h && !(h.request !== undefined && found)) found = h;
  if (!found || found.request !== undefined) return found;
  const request = requests[chosen];
  return { request, block: found.block, chip: found.chip, wait: found.wait };
}
chart.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, local(event));
  chart.setPointerCapture(event.pointerId);
  moved = 0;
});
chart.addEventListener("pointermove", (event) => {
  const now = local(event), before = fingers.get(event.pointerId);
  if (!before) {
    const found = event.pointerType === "mouse" ? under(now) : null;
    const next = found && typeof found.request === "object" ? found : pinned;
    if (event.pointerType === "mouse" && !same(next, mark)) show(next);
    return;
  }
  const other = [...fingers].find(([id]) => id !== event.pointerId);
  moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
  fingers.set(event.pointerId, now);
  if (other) {
    const apart = (a, b) => Math.max(Math.hypot(a.x - b.x, a.y - b.y), 10);
    zoom(apart(before, other[1]) / apart(now, other[1]), (now.x + other[1].x) / 2);
  }
  if (moved > 3) pan((before.x - now.x) / width() / (other ? 2 : 1));
});
for (const end of ["pointerup", "pointercancel"])
  chart.addEventListener(end, (event) => {
    const last = fingers.get(event.pointerId);
    fingers.delete(event.pointerId);
    if (end === "pointercancel" || !last || moved > 3) return;
    const found = under(last);
    if (found && typeof found.request === "number") {
      if (found.request !== chosen) choose(found.request, true);
      else pin(null);
    } else pin(found);
  });
chart.addEventListener("pointerleave", () => show(pinned));
chart.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX || event.deltaY) / width());
  else zoom(Math.exp(Math.max(Math.min(event.deltaY * (event.deltaMode ? 16 : 1), 300), -300) * 0.002), local(event).x);
}, { passive: false });

// Keys and buttons.
const ACTS = {
  ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
  0: whole, 9: everything, Home: whole, n: () => step(1), p: () => step(-1), N: () => step(1), P: () => step(-1),
  ArrowDown: () => choose(chosen + 1, true), ArrowUp: () => choose(chosen - 1, true), Escape: () => pin(null),
};
chart.addEventListener("keydown", (event) => {
  const act = event.ctrlKey || event.metaKey || event.altKey ? null : ACTS[event.key];
  if (!act || !requests.length) return;
  event.preventDefault();
  act();
});
for (const [id, key] of [["out", "-"], ["in", "+"], ["whole", "0"], ["everything", "9"], ["back", "p"], ["next", "n"]])
  $(id).addEventListener("click", () => requests.length && ACTS[key]());
$("requests").addEventListener("change", (event) => choose(+event.target.value));

// The text.
const text = $("text"), tokenOf = (event) => (event.target.dataset.i === undefined ? null : +event.target.dataset.i);
const token = (i) => ({ request: requests[chosen], chip: i });
text.addEventListener("mouseover", (event) => tokenOf(event) !== null && show(token(tokenOf(event))));
text.addEventListener("mouseleave", () => show(pinned));
function goTo(i) {
  const r = requests[chosen], b = r.blocks[r.chips[i].block];
  pin(token(i));
  if (b) reveal(b.start, r.chips[i].at);
}
text.addEventListener("click", (event) => tokenOf(event) !== null && goTo(tokenOf(event)));
text.addEventListener("keydown", (event) => {
  const r = requests[chosen], at = pinned && pinned.chip !== undefined ? pinned.chip : -1;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (by && r && r.chips.length) {
    event.preventDefault();
    const i = Math.min(Math.max(at + by, 0), r.chips.length - 1);
    pin(token(i));
    text.children[i].scrollIntoView({ block: "nearest" });
  } else if (event.key === "Enter" && at >= 0) goTo(at);
  else if (event.key === "Escape") pin(null);
});

// The beginning. A chat template says the same before every prompt, so a prompt is known by its end.
const brief = (r) => r.prompt.replace(/\s+/g, " ").trim().slice(-60);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (dress(), redraw()));
addEventListener("resize", redraw);
scroll.addEventListener("scroll", redraw);
dress();
if (data.missed) {
  $("note").textContent = `The recording was full: ${data.missed} later steps are missing.`;
  $("note").hidden = false;
}
if (requests.length) {
  requests.forEach((r, i) => $("requests").append(new Option(`#${r.session} ${r.failed ? "✗ " : ""}${brief(r)}`, i)));
  $("pick").hidden = $("everything").hidden = requests.length < 2;
  document.title = `bild timeline: ${requests.length === 1 ? brief(requests[0]) : `${requests.length} requests`}`;
  choose(0);
} else tellNothing();
