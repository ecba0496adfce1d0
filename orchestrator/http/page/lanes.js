// The drawing of the two models at work: a lane each, time from left to right, newest at the right while a text is
// written and the whole of it once it is.

import { FELL, STOOD } from "./story.js";
import { quoted } from "./words.js";

const AXIS = 18, LANE = 42, GAP = 8, GUTTER = 44, HIGH = AXIS + 2 * LANE + GAP + 2;
/** Least and most time that is shown while a text is written, ms: it grows with the text, then runs. */
const LEAST = 250, MOST = 3000;
const NAMES = ["page", "ink", "soft", "line", "panel", "small", "fallback", "rollback", "window", "large", "waste", "hatch", "check", "prefill", "on", "focus"];
const DOES = { prefill: "reads the prompt", draft: "drafts", check: "checks", write: "writes", stopped: "drafted in vain" };

/** Draws the story that it is given. `clock` tells the present in the story's time. */
export class Lanes {
  constructor(canvas, says) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.says = says;
    this.story = null;
    this.clock = null; // set while the text is written
    this.zoom = 1;
    this.chosen = null;
    this.frame = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.dress());
    new ResizeObserver(() => this.redraw()).observe(canvas);
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const kind of ["pointermove", "click"]) canvas.addEventListener(kind, (event) => this.point(event));
    this.dress();
  }

  begin(story, clock) {
    Object.assign(this, { story, clock, zoom: 1, chosen: null });
    this.canvas.dataset.blocks = 0;
    this.redraw();
  }

  /** The text is over: all of it is shown. */
  end() {
    this.clock = null;
    this.canvas.dataset.blocks = this.blocks().length;
    this.redraw();
  }

  /** Share of the time that a model was busy. */
  busy(role) {
    const spent = this.story.lanes[role].reduce((sum, b) => sum + b.to - b.from, 0);
    return this.story.to > 0 ? Math.min(spent / this.story.to, 1) : 0;
  }

  blocks() {
    if (!this.story) return [];
    return [...this.story.lanes.small, ...this.story.lanes.large].sort((a, b) => a.from - b.from);
  }

  redraw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
      if (this.clock && !this.still.matches) this.redraw();
    });
  }

  dress() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const p = tile.getContext("2d");
    p.fillStyle = this.colours.waste;
    p.fillRect(0, 0, 6, 6);
    p.strokeStyle = this.colours.hatch;
    for (const shift of [-6, 0, 6]) {
      p.moveTo(shift - 1, 7);
      p.lineTo(shift + 7, -1);
    }
    p.stroke();
    this.colours.fell = this.pen.createPattern(tile, "repeat");
    this.redraw();
  }

  /** From when to when. */
  view() {
    const now = this.clock ? this.clock() : this.story.to;
    if (!this.clock) {
      const length = Math.max(now, 1) * 1.02 * this.zoom;
      const middle = this.chosen ? (this.chosen.from + this.chosen.to) / 2 : now;
      const from = Math.max(Math.min(middle - length / 2, now * 1.02 - length), 0);
      return [from, from + length];
    }
    if (!this.still.matches) {
      const length = Math.min(Math.max(now * 1.1, LEAST), MOST) * this.zoom;
      return [Math.max(now - length * 0.95, 0), Math.max(now - length * 0.95, 0) + length];
    }
    // Nothing glides: the scale doubles, and then a page is turned.
    let length = LEAST;
    while (length < now && length < MOST) length *= 2;
    length *= this.zoom;
    const from = Math.floor(now / length) * length;
    return [from, from + length];
  }

  draw() {
    const { canvas, pen, colours } = this, ratio = devicePixelRatio || 1, wide = canvas.clientWidth;
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(HIGH * ratio)) {
      canvas.width = Math.round(wide * ratio);
      canvas.height = Math.round(HIGH * ratio);
      canvas.style.height = `${HIGH}px`;
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, wide, HIGH);
    pen.textBaseline = "middle";
    this.hits = [];
    for (const [n, role] of ["small", "large"].entries()) {
      const y = AXIS + n * (LANE + GAP);
      pen.fillStyle = colours.panel;
      pen.fillRect(GUTTER, y, wide - GUTTER, LANE);
      pen.fillStyle = colours.ink;
      pen.font = "12px system-ui, sans-serif";
      pen.fillText(role, 4, y + LANE / 2);
    }
    if (!this.story) return;
    const [from, to] = this.view();
    this.x = (time) => GUTTER + ((time - from) / (to - from)) * (wide - GUTTER);
    this.axis(from, to, wide);
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, 0, wide - GUTTER, HIGH);
    pen.clip();
    for (const [n, role] of ["small", "large"].entries()) this.lane(role, AXIS + n * (LANE + GAP), from, to);
    pen.restore();
  }

  axis(from, to, wide) {
    const { pen, colours } = this, rough = (to - from) / Math.max((wide - GUTTER) / 80, 2);
    const power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    pen.font = "11px system-ui, sans-serif";
    for (let n = Math.ceil(from / step); n * step < to; n++) {
      const px = this.x(n * step), text = step >= 100 ? `${+((n * step) / 1000).toFixed(2)} s` : `${+(n * step).toFixed(2)} ms`;
      pen.fillStyle = colours.line;
      pen.fillRect(px, AXIS - 5, 1, HIGH - AXIS + 5);
      pen.fillStyle = colours.soft;
      if (px + 3 + pen.measureText(text).width < wide) pen.fillText(text, px + 3, AXIS - 10);
    }
  }

  lane(role, y, from, to) {
    const { pen, colours, story } = this, blocks = story.lanes[role];
    for (let i = blocks.length - 1; i >= 0 && blocks[i].to >= from; i--) if (blocks[i].from <= to) this.block(blocks[i], y);
    if (!this.clock) return;
    const now = this.clock(), since = blocks.length ? blocks[blocks.length - 1].to : 0;
    for (const asked of story.asked[role].values()) {
      const begun = Math.max(asked.at, since);
      if (now <= begun) continue;
      pen.strokeStyle = colours.soft;
      pen.setLineDash([3, 3]);
      pen.strokeRect(this.x(begun) + 0.5, y + 1, this.x(now) - this.x(begun), LANE - 2);
      pen.setLineDash([]);
    }
  }

  block(b, y) {
    const { pen, colours } = this, px = this.x(b.from), wide = Math.max(this.x(b.to) - px, 0.8);
    this.hits.push({ block: b, from: px, to: px + Math.max(wide, 4), y });
    const count = b.cells.length + (b.low ? 1 : 0), each = wide / Math.max(count, 1);
    if (b.what === "draft" && count) {
      b.cells.forEach((cell, i) => this.cell(cell, px + i * each, each, y));
      if (b.low) {
        pen.strokeStyle = colours.fallback;
        pen.setLineDash([3, 2]);
        pen.strokeRect(px + wide - each + 1, y + 1, Math.max(each - 2, 0.5), LANE - 2);
        pen.setLineDash([]);
        if (each > 9) this.word("?", px + wide - each, y, each, colours.fallback);
      }
    } else if (b.verdict) this.check(b, px, wide, y);
    else {
      const alone = b.what === "write" && (b.position === null || !this.story.tokens[b.position] ? b.role : this.story.sourceAt(b.position));
      pen.fillStyle = alone ? colours[alone] : b.what === "stopped" || b.what === "draft" ? colours.fell : colours.prefill;
      pen.fillRect(px, y, wide, LANE);
      if (b.what === "prefill") this.word("prompt", px, y, wide, colours.ink);
    }
    if (b !== this.chosen) return;
    pen.strokeStyle = colours.focus;
    pen.lineWidth = 3;
    pen.strokeRect(px - 1.5, y - 1.5, wide + 3, LANE + 3);
    pen.lineWidth = 1;
  }

  cell(cell, px, each, y) {
    const { pen, colours, story } = this, source = story.sourceAt(cell.position), gap = each > 4 ? 1 : 0;
    pen.fillStyle = cell.fate === STOOD ? colours[source] : cell.fate === FELL ? colours.fell : colours.prefill;
    pen.fillRect(px, y, each - gap, LANE);
    if (each > 14) this.word(cell.text, px, y, each - gap, cell.fate === STOOD ? colours.on : cell.fate === FELL ? colours.soft : colours.ink);
  }

  check(b, px, wide, y) {
    const { pen, colours, story } = this, { count, accepted, position, token } = b.verdict;
    const places = count + (token !== null && accepted === count ? 1 : 0), each = wide / Math.max(places, 1);
    pen.fillStyle = colours.check;
    pen.fillRect(px, y, wide, LANE);
    for (let i = 0; i < places; i++) {
      pen.fillStyle = i <= accepted && story.tokens[position + i] ? colours[story.sourceAt(position + i)] : colours.fell;
      pen.fillRect(px + i * each, y + LANE - 9, each - (each > 4 ? 1 : 0), 9);
    }
    if (wide > 24) this.word(count ? `${accepted}/${count}` : b.verdict.text ?? "", px, y - 5, wide, colours.ink);
  }

  word(text, px, y, wide, colour) {
    const { pen } = this, left = Math.max(px, GUTTER), room = px + wide - left - 3;
    pen.font = "12px system-ui, sans-serif";
    const shown = text.replaceAll("\n", "↵").slice(0, 40).trim(), size = pen.measureText(shown).width;
    if (!shown || size > room) return;
    pen.fillStyle = colour;
    pen.fillText(shown, left + 1 + (room - size) / 2, y + LANE / 2);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "+" || event.key === "=") this.nearer(0.5);
    else if (event.key === "-") this.nearer(2);
    else if (step !== undefined) {
      event.preventDefault();
      const blocks = this.blocks(), at = this.chosen ? blocks.indexOf(this.chosen) : step < 0 ? blocks.length : -1;
      this.tell(blocks[Math.max(0, Math.min(at + step, blocks.length - 1))]);
    }
  }

  nearer(factor) {
    this.zoom = Math.min(Math.max(this.zoom * factor, 1 / 256), 1);
    this.redraw();
  }

  point(event) {
    const { left, top } = this.canvas.getBoundingClientRect(), px = event.clientX - left, y = event.clientY - top;
    const hit = this.hits.find((h) => px >= h.from && px <= h.to && y >= h.y && y <= h.y + LANE);
    if (hit && hit.block !== this.chosen) this.tell(hit.block);
  }

  tell(block) {
    if (!block) return;
    this.chosen = block;
    this.says.textContent = this.told(block);
    this.redraw();
  }

  told(b) {
    const time = `from ${b.from.toFixed(1)} to ${b.to.toFixed(1)} ms`, head = `The ${b.role} model ${DOES[b.what] ?? b.what} ${time}`;
    if (b.verdict) {
      const { count, accepted, text } = b.verdict, wrote = text === null ? "" : ` It writes ${quoted(text)}.`;
      return `${head}. ${count ? `${accepted} of ${count} guesses stand.` : ""}${wrote}`;
    }
    if (!b.cells.length) return `${head}${b.passes ? `, ${b.passes} ${b.passes === 1 ? "pass" : "passes"}` : ""}.`;
    const fell = b.cells.filter((c) => c.fate === FELL).length;
    return `${head}: ${quoted(b.cells.map((c) => c.text).join(""))}${fell ? `, ${fell} of ${b.cells.length} taken back` : ""}.`
      + (b.low ? ` Then it was unsure (${b.low.confidence?.toFixed(2) ?? "–"}).` : "");
  }
}
