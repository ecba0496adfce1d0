// The text on the page, token by token: what is certain in the colours of who wrote it, what is guessed pale behind
// it, what was taken back struck through for a moment. All of it is put in place as text, never as markup.

/** How long what was taken back can be seen, in ms. */
const SEEN = 900;
/** Longest text that waits for the end of its sentence before it is read out, in characters. */
const BREATH = 160;

const WHO = {
  small: "the small model wrote it", fallback: "fallback: the small model was unsure, the large one wrote it",
  rollback: "rollback: the large model took the guess back and wrote this", window: "window: the large model's turn after so many small tokens",
  large: "the large model wrote it",
};

export const quoted = (text) => `“${text.replaceAll("\n", "↵").replaceAll("\t", "⇥")}”`;
const measured = (x, digits) => (x === null || x === undefined ? "not measured" : x.toFixed(digits));

/** All that is known of a token, in one line. */
export function told(token) {
  return `${quoted(token.text)}, token ${token.position + 1}: ${WHO[token.source] ?? token.source}. `
    + `Confidence ${measured(token.confidence, 3)}, distance ${measured(token.distance, 2)}${token.distance === null ? "" : " nats"}.`;
}

/** The text of one answer. `says` is told what is known of the token that is pointed at. */
export class Words {
  constructor(place, says) {
    this.place = place;
    this.says = says;
    this.tokens = []; // { token, node }
    this.tail = []; // unchecked guesses in order: { position, token, node }
    this.chosen = -1;
    place.addEventListener("keydown", (event) => this.key(event));
    for (const kind of ["pointerover", "click"]) place.addEventListener(kind, (event) => this.point(event));
  }

  /** A token is certain. */
  commit(token) {
    const node = document.createElement("span");
    node.className = `t ${token.source}`;
    node.textContent = token.text;
    node.dataset.i = this.tokens.length;
    this.tokens.push({ token, node });
    const guess = this.tail[0];
    if (guess && guess.position === token.position && guess.token === token.token) {
      this.tail.shift();
      guess.node.replaceWith(node);
      return;
    }
    this.strike(0, token.position + 1);
    if (guess && guess.position === token.position) this.strike(token.position);
    this.place.insertBefore(node, this.tail[0]?.node ?? null);
  }

  /** Guesses of the small model from a position on. */
  guess(position, tokens, texts) {
    tokens.forEach((token, i) => {
      const at = position + i, known = this.tail.find((guess) => guess.position === at);
      if (at < this.tokens.length || (known && known.token === token)) return;
      if (known) this.strike(at);
      const node = document.createElement("span");
      node.className = "guess";
      node.setAttribute("aria-hidden", "true");
      node.textContent = texts[i];
      this.tail.push({ position: at, token, node });
      this.place.append(node);
    });
  }

  /** Guesses from one position up to another are taken back: struck through, then gone. */
  strike(from, to = Infinity) {
    const falls = (guess) => guess.position >= from && guess.position < to;
    for (const { node } of this.tail.filter(falls)) {
      node.className = "struck";
      setTimeout(() => node.remove(), SEEN);
    }
    this.tail = this.tail.filter((guess) => !falls(guess));
  }

  choose(i) {
    this.tokens[this.chosen]?.node.classList.remove("on");
    this.chosen = Math.max(0, Math.min(i, this.tokens.length - 1));
    const chosen = this.tokens[this.chosen];
    if (!chosen) return;
    chosen.node.classList.add("on");
    chosen.node.scrollIntoView({ block: "nearest" });
    this.says.textContent = told(chosen.token);
  }

  key(event) {
    const to = { ArrowRight: this.chosen + 1, ArrowLeft: this.chosen - 1, Home: 0, End: this.tokens.length - 1 }[event.key];
    if (to === undefined || !this.tokens.length) return;
    event.preventDefault();
    this.choose(to);
  }

  point(event) {
    const known = this.tokens[event.target.dataset?.i];
    if (known) this.says.textContent = told(known.token);
  }
}

/** Reads the text out to those who do not see it: in sentences, not in tokens. Owns the live region. */
export class Voice {
  constructor(region) {
    this.region = region;
    this.waiting = "";
  }

  begin() {
    this.region.replaceChildren();
    this.waiting = "";
  }

  push(text) {
    this.waiting += text;
    const end = Math.max(...[". ", "! ", "? ", ": ", "\n"].map((mark) => this.waiting.lastIndexOf(mark)));
    const cut = end >= 0 ? end + 1 : this.waiting.length > BREATH ? this.waiting.lastIndexOf(" ") + 1 || this.waiting.length : 0;
    this.say(cut);
  }

  end() {
    this.say(this.waiting.length);
  }

  say(length) {
    const text = this.waiting.slice(0, length);
    this.waiting = this.waiting.slice(length);
    if (!text.trim()) return;
    const line = document.createElement("p");
    line.textContent = text;
    this.region.append(line);
  }
}
