// One text as it comes about: who was busy when, what became of each guess, and the figures. Pure bookkeeping:
// knows no document and no clock. Times are ms since the server took the request up; `docs/http.md` has the events.

/** What became of a guess. */
export const OPEN = "open", STOOD = "stood", FELL = "fell";

export class Story {
  constructor() {
    this.tokens = []; // as the server tells them, with `at`
    this.lanes = { small: [], large: [] }; // blocks in order of time
    this.asked = { small: new Map(), large: new Map() }; // by seq: commands without an answer
    this.live = new Map(); // by position: guesses that may still become text
    this.counts = { small: 0, fallback: 0, rollback: 0, window: 0, large: 0 };
    this.checked = this.accepted = this.largePasses = 0;
    this.to = 0; // latest moment that is known of
    this.trace = null;
    this.reason = null;
  }

  /** A token is text: so what was guessed there stood, or it and all behind it fell. */
  write(token, at) {
    const known = { ...token, at };
    this.tokens.push(known);
    if (token.source in this.counts) this.counts[token.source] += 1;
    const cell = this.live.get(token.position);
    if (cell && cell.token !== token.token) this.fall(token.position);
    else if (cell) {
      cell.fate = STOOD;
      this.live.delete(token.position);
    }
    return known;
  }

  fall(position) {
    for (const [place, cell] of this.live) {
      if (place < position) continue;
      cell.fate = FELL;
      this.live.delete(place);
    }
  }

  take(event) {
    this.to = Math.max(this.to, event.at ?? 0, event.back ?? 0);
    this[`on_${event.type}`]?.(event);
  }

  on_asked(event) {
    // A new epoch: what was asked for before it is taken back, and may never be answered.
    for (const lane of Object.values(this.asked))
      for (const [seq, old] of lane) if (old.epoch < event.epoch) lane.delete(seq);
    this.asked[event.role].set(event.seq, event);
  }

  on_busy(event) {
    const asked = this.asked[event.role].get(event.seq);
    const lane = this.lanes[event.role];
    const block = { ...event, position: asked?.position ?? null, cells: [], low: null, verdict: null };
    if (event.what !== "prefill" && event.what !== "stopped") {
      // A draft may come in pieces: what is still to come of it was begun when this piece was done.
      if (event.what === "draft" && asked) this.asked[event.role].set(event.seq, { ...asked, at: event.to });
      else this.asked[event.role].delete(event.seq);
    }
    lane.push(block);
    for (let i = lane.length - 1; i > 0 && lane[i - 1].from > block.from; i--) [lane[i - 1], lane[i]] = [block, lane[i - 1]];
    if (event.role === "large") this.largePasses += event.passes;
  }

  on_draft(event) {
    const block = this.find("small", event);
    if (event.final) this.asked.small.delete(event.seq);
    const cells = event.tokens.map((token, i) => ({
      position: event.position + i, token, text: event.texts[i], confidence: event.confidences[i], fate: event.stale ? FELL : OPEN,
    }));
    if (block) {
      block.cells = cells;
      block.low = event.low;
    }
    if (event.stale) return;
    for (const cell of cells) {
      const old = this.live.get(cell.position);
      if (old && old.token !== cell.token) this.fall(cell.position);
      this.live.set(cell.position, cell);
    }
  }

  on_verdict(event) {
    this.checked += event.count;
    this.accepted += event.accepted;
    const block = this.find("large", event);
    if (block) block.verdict = event;
  }

  on_replaced(event) {
    this.fall(event.position);
  }

  on_finished(event) {
    this.reason = event.reason; // its last tokens may still be on their way
  }

  /** No more will come, whether or not the text is over. */
  close() {
    for (const cell of this.live.values()) cell.fate = FELL;
    this.live.clear();
    for (const lane of Object.values(this.asked)) lane.clear();
  }

  find(role, { seq, epoch }) {
    return this.lanes[role].findLast((b) => b.seq === seq && b.epoch === epoch && !b.cells.length && !b.verdict);
  }

  /** Who wrote the token at a position; the small model where nobody knows yet. */
  sourceAt(position) {
    return this.tokens[position]?.source ?? "small";
  }

  /** The figures: name, value as text, and what it means. */
  figures() {
    const n = this.tokens.length, last = n ? this.tokens[n - 1].at : 0;
    const passes = this.trace ? this.trace.large_passes : this.largePasses;
    const rounded = (x, digits) => (Number.isFinite(x) ? x.toFixed(digits) : "–");
    return [
      ["tokens", String(n), "Tokens written so far"],
      ["tokens a second", rounded((n / last) * 1000, 1), "From the request to the latest token"],
      ["first token", n ? `${rounded(this.tokens[0].at, 0)} ms` : "–", "From the request to the first token"],
      ["large passes a token", rounded(passes / n, 2), "1 is what the large model alone takes"],
      ["fallbacks", String(this.counts.fallback), "The small model was unsure and the large one wrote"],
      ["rollbacks", String(this.counts.rollback), "The large model took guesses back"],
      ["accepted", this.checked ? `${rounded((100 * this.accepted) / this.checked, 0)} %` : "–", "Of the guesses that were checked"],
    ];
  }
}
