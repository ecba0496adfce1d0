// The drawing: requests one below the other on one axis of time, the chosen one tall, the others flat.
// Runs in one scope with timeline_hands.js, which comes behind it.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const requests = data.requests, word = (id) => data.words[id] ?? `⟨${id}⟩`;
const chart = $("chart"), pen = chart.getContext("2d"), scroll = $("scroll");
const AXIS = 22, TALL = 196, FLAT = 40, GUTTER = 46, MS = 1e6;
const FATES = {
  open: "not known: the recording ends before", stood: "stands", replaced: "replaced by the large model",
  behind: "fell with one before it", old: "came too late: the text had changed", end: "behind the end of the text",
};
let chosen = 0, view = { from: 0, to: 1 }, mark = null, hits = [], colours = {}, drawn = 0;

// Words.
const span = (ns) => {
  const a = Math.abs(ns);
  if (a >= 1e9) return `${(ns / 1e9).toFixed(a >= 1e10 ? 1 : 2)} s`;
  if (a >= MS) return `${(ns / MS).toFixed(a >= 1e8 ? 0 : a >= 1e7 ? 1 : 2)} ms`;
  return `${(ns / 1e3).toFixed(0)} µs`;
};
const share = (part, whole) => (whole > 0 ? `${((100 * part) / whole).toFixed(0)} %` : "–");
const quoted = (text) => `“${text.replaceAll("\n", "↵").replaceAll("\t", "⇥")}”`;
const number = (x, digits = 2) => (x === null || x === undefined ? "–" : typeof x === "number" ? x.toFixed(digits) : x.replace("inf", "∞"));
const make = (name, text, kind) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};

// What belongs together.
for (const r of requests) {
  r.lanes = { small: [], large: [] };
  let last = { small: null, large: null };
  r.blocks.forEach((b, i) => {
    b.index = i;
    b.chips = [];
    const before = last[b.role];
    // Later pieces of a draft were not asked for one by one: their way there is drawn once.
    b.asked = b.kind !== "prefill" && b.kind !== "stopped" && !(before && before.seq === b.seq && before.epoch === b.epoch);
    if (b.seq) last[b.role] = b;
    r.lanes[b.role].push(b);
  });
  for (const lane of Object.values(r.lanes)) lane.sort((a, b) => a.start - b.start);
  r.steps = [...r.blocks].sort((a, b) => a.start - b.start);
  r.groups = [];
  r.chips.forEach((c, i) => {
    c.index = i;
    if (r.blocks[c.block]) r.blocks[c.block].chips.push(i);
    const group = r.groups[r.groups.length - 1];
    if (group && r.chips[group[0]].at === c.at) group.push(i);
    else r.groups.push([i]);
  });
}
const sourceAt = (r, position) => (r.chips[position] ? r.chips[position].source : "large");
/** Index of the first entry that is not before a time. */
const seek = (list, time, key) => {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(list[middle]) < time) low = middle + 1;
    else high = middle;
  }
  return low;
};

// The view.
const begin = Math.min(0, ...requests.map((r) => r.from)), finish = requests.reduce((t, r) => Math.max(t, r.to), 1);
let across = 1;
/** Width of the drawing in px, without the names at its left. Read off once for each frame. */
const width = () => across;
const x = (time) => GUTTER + ((time - view.from) / (view.to - view.from)) * width();
const timeAt = (px) => view.from + ((px - GUTTER) / width()) * (view.to - view.from);
function look(from, to) {
  const length = Math.min(Math.max(to - from, 2e3), (finish - begin) * 1.1 + 2e3), middle = (from + to) / 2;
  const slack = length * 0.5, centre = Math.min(Math.max(middle, begin - slack + length / 2), finish + slack - length / 2);
  view = { from: centre - length / 2, to: centre + length / 2 };
  redraw();
}
const zoom = (factor, px = GUTTER + width() / 2) => {
  const at = timeAt(px);
  look(at - (at - view.from) * factor, at + (view.to - at) * factor);
};
const pan = (part) => look(view.from + (view.to - view.from) * part, view.to + (view.to - view.from) * part);
function whole() {
  const r = requests[chosen];
  const margin = Math.max((r.to - r.from) * 0.02, 1e4);
  look(r.from - margin, r.to + 3 * margin);
}
const everything = () => look(begin - finish * 0.02, finish * 1.02);
const reveal = (from, to) => {
  const length = Math.max(view.to - view.from, (to - from) * 1.3);
  if (from < view.from || to > view.to) look((from + to - length) / 2, (from + to + length) / 2);
};
const top = (i) => AXIS + i * FLAT + (i > chosen ? TALL - FLAT : 0);
const height = () => AXIS + (requests.length - 1) * FLAT + TALL;

// The drawing.
function redraw() {
  if (!drawn) drawn = requestAnimationFrame(draw);
}
function dress() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["page", "ink", "soft", "line", "small", "fallback", "rollback", "window", "large", "waste",
    "hatch", "check", "prefill", "own", "on", "focus", "panel"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const p = tile.getContext("2d");
  p.fillStyle = colours.waste;
  p.fillRect(0, 0, 6, 6);
  p.strokeStyle = colours.hatch;
  for (const shift of [-6, 0, 6]) {
    p.moveTo(shift - 1, 7);
    p.lineTo(shift + 7, -1);
  }
  p.stroke();
  colours.wasted = pen.createPattern(tile, "repeat");
}
function draw() {
  drawn = 0;
  const ratio = devicePixelRatio || 1, wide = scroll.clientWidth;
  across = Math.max(wide - GUTTER, 1);
  $("tall").style.height = `${height()}px`;
  const high = Math.min(height(), scroll.clientHeight || height());
  if (chart.width !== Math.round(wide * ratio) || chart.height !== Math.round(high * ratio)) {
    chart.width = Math.round(wide * ratio);
    chart.height = Math.round(high * ratio);
    chart.style.height = `${high}px`;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, wide, high);
  pen.textBaseline = "middle";
  hits = [];
  requests.forEach((r, i) => {
    const y = top(i) - scroll.scrollTop, h = i === chosen ? TALL : FLAT;
    if (y + h < 0 || y > high) return;
    hits.push({ x: 0, y, w: wide, h, request: i });
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, y, wide - GUTTER, h);
    pen.clip();
    (i === chosen ? tall : flat)(r, y);
    pen.restore();
    label(r, i, y, h, wide);
  });
  axis(wide);
}
function label(r, i, y, h, wide) {
  pen.fillStyle = colours.line;
  pen.fillRect(0, y + h - 1, wide, 1);
  pen.fillStyle = colours.soft;
  pen.font = "11px system-ui, sans-serif";
  if (i === chosen) [["small", 30], ["large", 88], ["text", 146], ["waits", 188]].forEach(([name, at]) => pen.fillText(name, 6, y + at));
  else pen.fillText(`${r.failed ? "✗" : ""}#${r.session}`, 6, y + h / 2);
}
function axis(wide) {
  pen.fillStyle = colours.page;
  pen.fillRect(0, 0, wide, AXIS);
  const most = Math.max(width() / 80, 2), rough = (view.to - view.from) / most;
  const power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  pen.font = "11px system-ui, sans-serif";
  for (let n = Math.ceil(view.from / step); n * step <= view.to; n++) {
    const px = x(n * step);
    if (px < GUTTER) continue;
    pen.fillStyle = colours.line;
    pen.fillRect(px, AXIS - 6, 1, 6);
    pen.fillStyle = colours.soft;
    const big = step >= 1e8, text = big ? `${+((n * step) / 1e9).toFixed(2)} s` : step >= 1e3 ? `${+((n * step) / MS).toFixed(3)} ms` : span(n * step);
    pen.fillText(text, px + 3, AXIS - 12);
  }
  pen.fillStyle = colours.line;
  pen.fillRect(0, AXIS - 1, wide, 1);
}
const visible = (lane) => {
  // A block before the first visible start may still reach into the view; blocks of a lane do not overlap.
  const from = Math.max(seek(lane, view.from, (b) => b.start) - 1, 0);
  return lane.slice(from, seek(lane, view.to, (b) => Math.min(b.came, b.asked ? b.sent : b.came)) + 1);
};
function flat(r, y) {
  for (const [role, at] of [["small", 5], ["large", 19]])
    for (const b of visible(r.lanes[role])) body(r, b, x(b.start), y + at, Math.max(x(b.end) - x(b.start), 0.6), 12, false);
  for (const group of r.groups) {
    const px = x(r.chips[group[0]].at);
    if (px < GUTTER || px > GUTTER + across) continue;
    pen.fillStyle = colours[r.chips[group[group.length - 1]].source];
    pen.fillRect(px, y + 33, 2, 4);
  }
}
function tall(r, y) {
  for (const [role, at] of [["small", 8], ["large", 66]]) {
    pen.fillStyle = colours.panel;
    pen.fillRect(GUTTER, y + at, width(), 44);
    for (const b of visible(r.lanes[role])) lane(r, b, y + at);
  }
  swaps(r, y);
  chips(r, y + 118);
  waits(r, y + 182);
}
function lane(r, b, y) {
  const from = x(b.start), wide = Math.max(x(b.end) - from, 0.6);
  const left = b.asked ? x(b.sent) : x(b.came), right = x(b.back);
  if (right - left > 1.5) {
    pen.strokeStyle = pen.fillStyle = colours.soft;
    pen.lineWidth = 1;
    pen.beginPath();
    for (const [a, z] of [[left, x(b.came)], [x(b.end), right]]) {
      pen.moveTo(a, y + 22);
      pen.lineTo(z, y + 22);
    }
    pen.stroke();
    pen.globalAlpha = 0.45;
    for (let px = Math.max(x(b.came), GUTTER - 3); px < Math.min(from - 1, GUTTER + across); px += 3) pen.fillRect(px, y + 13, 1, 18);
    pen.globalAlpha = 1;
  }
  body(r, b, from, y, wide, 44, true);
  hits.push({ x: left, y, w: Math.max(right - left, 5), h: 44, block: b });
  const deciding = mark && mark.request === r && mark.chip !== undefined && r.chips[mark.chip].block === b.index;
  if (deciding || (mark && mark.request === r && mark.block === b)) {
    pen.strokeStyle = colours.focus;
    pen.lineWidth = 2;
    pen.strokeRect(from - 1, y - 1, wide + 2, 46);
  }
}
/** The computed part of a block: one cell for each pass of a draft, one piece for a check. */
function body(r, b, px, y, wide, high, words) {
  if (px > GUTTER + across || px + wide < GUTTER) return;
  if (b.kind === "check") return check(r, b, px, y, wide, high, words);
  const count = b.cells.length + (b.low ? 1 : 0);
  if (!count) {
    pen.fillStyle = b.kind === "stopped" ? colours.wasted : colours.prefill;
    pen.fillRect(px, y, wide, high);
    if (words && wide > 50) write(b.kind, px, y + high / 2, wide, colours.soft);
    return;
  }
  const each = wide / count;
  if (each < 1.2) {
    // Too narrow for cells: as high as the share of its tokens that stood.
    const stood = b.cells.filter((c) => c.fate === "stood").length / Math.max(b.cells.length, 1);
    pen.fillStyle = colours.hatch;
    pen.fillRect(px, y, wide, high * (1 - stood));
    pen.fillStyle = colours[b.cells.length ? sourceAt(r, b.cells[0].position) : "fallback"];
    pen.fillRect(px, y + high * (1 - stood), wide, high * stood);
    return;
  }
  b.cells.forEach((c, i) => cell(r, c, px + i * each, y, each, high, words));
  if (b.low) {
    pen.strokeStyle = colours.fallback;
    pen.lineWidth = 1;
    pen.setLineDash([3, 2]);
    pen.strokeRect(px + wide - each + 1, y + 1, Math.max(each - 2, 0.5), high - 2);
    pen.setLineDash([]);
    if (words && each > 9) write("?", px + wide - each, y + high / 2, each, colours.fallback);
  }
}
function cell(r, c, px, y, each, high, words) {
  const stands = c.fate === "stood", gap = each > 4 ? 1 : 0;
  pen.fillStyle = stands ? colours[sourceAt(r, c.position)] : c.fate === "open" ? colours.prefill : colours.wasted;
  pen.fillRect(px, y, each - gap, high);
  if (c.fate === "replaced") {
    pen.fillStyle = colours[sourceAt(r, c.position)];
    pen.fillRect(px, y + high - 4, each - gap, 4);
  }
  if (words && each > 16) write(word(c.token), px, y + high / 2, each - gap, stands ? colours.on : colours.soft, !stands && c.fate !== "open");
}
function check(r, b, px, y, wide, high, words) {
  const c = b.check, count = c.exact.length + (c.token >= 0 && c.accepted === c.exact.length ? 1 : 0);
  pen.fillStyle = colours.check;
  pen.fillRect(px, y, wide, high);
  const strip = high > 20 ? 8 : 4, each = wide / Math.max(count, 1);
  for (let i = 0; i < count && each >= 0.6; i++) {
    pen.fillStyle = i <= c.accepted && r.chips[c.position + i] ? colours[sourceAt(r, c.position + i)] : colours.wasted;
    pen.fillRect(px + i * each, y + high - strip, each - (each > 4 ? 1 : 0), strip);
  }
  if (!words) return;
  const stood = c.exact.length ? `${c.accepted}/${c.exact.length}` : "", wrote = c.token >= 0 ? quoted(word(c.token)) : "";
  if (wide > 22) {
    write(stood || wrote, px, y + (stood && wrote ? 11 : 18), wide, colours.ink);
    if (stood && wrote) write(wrote, px, y + 26, wide, colours.ink);
  }
}
function write(text, px, y, wide, colour, struck = false) {
  const left = Math.max(px, GUTTER), room = Math.min(px + wide, GUTTER + across) - left - 4;
  if (room < 5) return;
  pen.font = "12px system-ui, sans-serif";
  let shown = text.replaceAll("\n", "↵").slice(0, 60).trim() || "␣";
  while (shown.length > 1 && pen.measureText(shown).width > room) shown = shown.slice(0, -1);
  const size = pen.measureText(shown).width;
  if (size > room + 2) return;
  pen.fillStyle = colour;
  pen.fillText(shown, left + 2 + (room - size) / 2, y);
  if (struck) pen.fillRect(left + 2 + (room - size) / 2, y, size, 1);
}
function swaps(r, y) {
  const some = r.swaps.slice(seek(r.swaps, view.from, (s) => s.at), seek(r.swaps, view.to, (s) => s.at) + 1);
  for (const s of some) {
    const block = r.blocks[s.drafted], to = x(r.blocks[s.block].end);
    pen.strokeStyle = pen.fillStyle = colours[s.source];
    pen.beginPath();
    pen.moveTo(to, y + 68);
    pen.lineTo(to - 4, y + 60);
    pen.lineTo(to + 4, y + 60);
    pen.fill();
    if (!block || some.length > 120) continue;
    const count = block.cells.length + (block.low ? 1 : 0), at = block.cells.findIndex((c) => c.position === s.position);
    const from = x(block.start) + ((at + 0.5) / count) * (x(block.end) - x(block.start));
    pen.lineWidth = 1.3;
    pen.beginPath();
    pen.moveTo(from, y + 52);
    pen.bezierCurveTo(from, y + 62, to, y + 50, to, y + 61);
    pen.stroke();
  }
}
function chips(r, y) {
  pen.font = "12px system-ui, sans-serif";
  const first = Math.max(seek(r.groups, view.from, (g) => r.chips[g[0]].at) - 1, 0);
  for (let n = first; n < r.groups.length && x(r.chips[r.groups[n][0]].at) < GUTTER + across; n++) {
    const group = r.groups[n], px = x(r.chips[group[0]].at), after = r.groups[n + 1];
    const room = (after ? x(r.chips[after[0]].at) : px + 400) - px;
    // What cannot hold a letter is not measured: with thousands of tokens that is most of the time.
    const sizes = room < 15 ? group.map(() => 1e9) : group.map((i) => (r.chips[i].size ??= Math.max(pen.measureText(shown(r.chips[i])).width + 9, 15)));
    const inline = sizes.reduce((a, b) => a + b, 0) <= room;
    // One below the other while that fits, then as many side by side as it takes.
    const lines = sizes.every((size) => size <= room) && group.length <= 3;
    const thin = Math.min(Math.max(room - 1, 1.5), 9), step = Math.min(8, 58 / group.length);
    let place = px;
    group.forEach((i, k) => {
      const c = r.chips[i], hot = mark && mark.request === r && (mark.chip === i || (mark.chip === undefined && mark.block && mark.block.index === c.block));
      let box = { x: px, y: y + k * step, w: thin, h: Math.max(step - 1, 0.7) };
      if (inline) box = { x: place, y: y + 2, w: sizes[k] - 2, h: 18 };
      else if (lines) box = { x: px, y: y + 2 + k * 20, w: sizes[k] - 2, h: 18 };
      place += sizes[k];
      pen.fillStyle = colours[c.source];
      pen.fillRect(box.x, box.y, box.w, box.h);
      if (inline || lines) write(shown(c), box.x, box.y + 9, box.w, colours.on);
      if (hot) {
        pen.strokeStyle = colours.focus;
        pen.lineWidth = 2;
        pen.strokeRect(box.x - 1, box.y - 1, box.w + 2, box.h + 2);
      }
      hits.push({ ...box, w: Math.max(box.w, 4), h: Math.max(box.h, 4), chip: i });
    });
  }
}
const shown = (chip) => (chip.text || word(chip.token)).replaceAll("\n", "↵").slice(0, 60).trim() || "␣";
function waits(r, y) {
  pen.fillStyle = colours.own;
  const ends = Math.min(x(r.to), GUTTER + across);
  pen.fillRect(Math.max(x(r.from), GUTTER), y, ends - Math.max(x(r.from), GUTTER), 8);
  for (let n = Math.max(seek(r.waits, view.from, (w) => w.to), 0); n < r.waits.length && r.waits[n].from < view.to; n++) {
    const w = r.waits[n], px = x(w.from), wide = Math.max(x(w.to) - px, 0.5), two = w.roles.length > 1;
    pen.fillStyle = colours.page;
    pen.fillRect(px, y, wide, 8);
    w.roles.forEach((role, k) => {
      pen.fillStyle = colours[role];
      pen.globalAlpha = 0.75;
      pen.fillRect(px, y + (two ? k * 4 : 0), wide, two ? 4 : 8);
      pen.globalAlpha = 1;
    });
    hits.push({ x: px, y: y - 2, w: wide, h: 12, wait: w });
  }
}
