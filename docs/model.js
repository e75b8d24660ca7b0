// A GPT in plain JavaScript: what generate.py does, token by token. Files of export_model.py put models into MODELS.
// GPT computes every rung; Writer only those whose songs end in a separator (v1 and above), with or without s1's marks.
const MODELS = {}

// ---------- numbers ----------
const dot = (a, i, b, j, n) => {                      // n numbers of a from i on, times those of b from j on
  let sum = 0
  for (let k = 0; k < n; k++) sum += a[i + k] * b[j + k]
  return sum
}
const erf = x => {                                    // Abramowitz and Stegun 7.1.26: off by 1.5e-7 at most
  const t = 1 / (1 + 0.3275911 * Math.abs(x))
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
  return Math.sign(x) * (1 - tail * Math.exp(-x * x))
}
const ACTIVATIONS = {
  relu: x => Math.max(0, x), gelu: x => x * (1 + erf(x / Math.SQRT2)) / 2, silu: x => x / (1 + Math.exp(-x)),
}
function softmax(scores) {
  const max = scores.reduce((a, b) => Math.max(a, b)), out = scores.map(score => Math.exp(score - max))
  const sum = out.reduce((a, b) => a + b)
  return out.map(value => value / sum)
}

// ---------- the model ----------
class GPT {
  constructor({ config, tensors, data }) {
    const bytes = Uint8Array.from(atob(data), char => char.charCodeAt(0)).buffer
    this.config = config
    this.weights = {}
    for (const [name, { rows, cols, int8, at }] of Object.entries(tensors)) {      // int8: a scale for each row follows
      const values = new (int8 ? Int8Array : Float32Array)(bytes, at, rows * cols)
      const scale = int8 && new Float32Array(bytes, at + Math.ceil(rows * cols / 4) * 4, rows)
      this.weights[name] = { rows, cols, values, scale }
    }
    this.headSize = config.N_EMBED / config.N_HEADS
    this.kvHeads = this.weights['blocks.0.attention.k.weight'].rows / this.headSize
    this.begin = 0                                    // the window begins with this token of the song
    this.ids = []                                     // the tokens that it has read, and of each
    this.cache = Array.from({ length: config.N_LAYERS }, () => ({ k: [], v: [] }))        // k and v in every layer
    this.attention = []                               // what it looked at: (layers, heads, tokens before)
    this.scores = []                                  // the scores of the one after it: (vocabulary)
    this.bits = []                                    // how much it surprised: -log2 of its probability
  }

  forget(length) {                                    // all but the first tokens
    const lists = [this.ids, this.attention, this.scores, this.bits, ...this.cache.flatMap(({ k, v }) => [k, v])]
    for (const list of lists) list.length = length
  }

  row(name, n) {                                      // one row of a table
    const { cols, values, scale } = this.weights[name]
    return Float32Array.from(values.subarray(n * cols, (n + 1) * cols), value => scale ? value * scale[n] : value)
  }

  linear(x, name) {                                   // x: (cols) -> (rows)
    const { rows, cols, values, scale } = this.weights[`${name}.weight`], bias = this.weights[`${name}.bias`]
    const out = new Float32Array(rows)
    for (let r = 0; r < rows; r++)
      out[r] = dot(values, r * cols, x, 0, cols) * (scale ? scale[r] : 1) + (bias ? bias.values[r] : 0)
    return out
  }

  norm(x, name) {                                     // with a bias it is LayerNorm, without RMSNorm
    const weight = this.weights[`${name}.weight`].values, bias = this.weights[`${name}.bias`], n = x.length
    const mean = bias ? x.reduce((a, b) => a + b) / n : 0
    const rms = Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / n + 1e-5)
    return x.map((value, i) => (value - mean) / rms * weight[i] + (bias ? bias.values[i] : 0))
  }

  heads(x, name) {                                    // q or k, head by head: normalised (v10 on), rotated (RoPE)
    const size = this.headSize, half = size / 2, out = []
    for (let h = 0; h < x.length; h += size) {
      let head = x.subarray(h, h + size)
      if (this.weights[`${name}.weight`]) head = this.norm(head, name)
      if (!this.weights['position_embedding.weight']) head = head.map((value, i) => {
        const angle = this.ids.length * 10000 ** (-2 * (i % half) / size)
        const other = i < half ? -head[i + half] : head[i - half]
        return value * Math.cos(angle) + other * Math.sin(angle)
      })
      out.push(head)
    }
    return out
  }

  attend(x, layer) {                                  // (C) -> (C): this token looks at itself and all before it
    const name = `blocks.${layer}.attention`, size = this.headSize, { k, v } = this.cache[layer]
    const q = this.heads(this.linear(x, `${name}.q`), `${name}.q_norm`)
    k.push(this.heads(this.linear(x, `${name}.k`), `${name}.k_norm`))
    v.push(this.linear(x, `${name}.v`))
    const out = new Float32Array(q.length * size), looks = q.map((query, h) => {
      const group = Math.floor(h * this.kvHeads / q.length)        // heads that share a k and v
      const weights = softmax(Float32Array.from(k, keys => dot(query, 0, keys[group], 0, size) / Math.sqrt(size)))
      weights.forEach((weight, t) => {
        for (let i = 0; i < size; i++) out[h * size + i] += weight * v[t][group * size + i]
      })
      return weights
    })
    this.attention.at(-1).push(looks)                 // of this token: (layers, heads, tokens)
    return this.linear(out, `${name}.proj`)
  }

  feed(x, layer) {                                    // (C) -> (C)
    const name = `blocks.${layer}.ffwd`
    if (this.weights[`${name}.gate.weight`]) {
      const gate = this.linear(x, `${name}.gate`), up = this.linear(x, `${name}.up`)
      return this.linear(gate.map((value, i) => ACTIVATIONS.silu(value) * up[i]), `${name}.down`)
    }
    return this.linear(this.linear(x, `${name}.net.0`).map(ACTIVATIONS[this.config.activation]), `${name}.net.2`)
  }

  step(token) {                                       // one more token, and the scores of the one after it
    const add = (a, b) => a.map((value, i) => value + b[i])
    this.attention.push([])
    this.bits.push(this.ids.length ? -Math.log2(softmax(this.scores.at(-1))[token]) : 0)
    let x = this.row('token_embedding.weight', token)
    if (this.weights['position_embedding.weight']) x = add(x, this.row('position_embedding.weight', this.ids.length))
    for (let layer = 0; layer < this.config.N_LAYERS; layer++) {
      x = add(x, this.attend(this.norm(x, `blocks.${layer}.ln1`), layer))
      x = add(x, this.feed(this.norm(x, `blocks.${layer}.ln2`), layer))
    }
    this.ids.push(token)
    this.scores.push(this.linear(this.norm(x, 'ln_f'), this.weights['lm_head.weight'] ? 'lm_head' : 'token_embedding'))
  }

  after(ids) {                                        // the scores of the token after ids; reads only what is new
    const { BLOCK_SIZE } = this.config
    if (ids.length <= BLOCK_SIZE) this.begin = 0
    else if (ids.length - this.begin > BLOCK_SIZE) this.begin = ids.length - Math.floor(BLOCK_SIZE / 2)
    const window = ids.slice(this.begin)
    let known = 0
    while (known < window.length && this.ids[known] === window[known]) known++
    this.forget(known)
    window.slice(known).forEach(token => this.step(token))
    return this.scores.at(-1)
  }
}

// ---------- text and tokens ----------
class Tokenizer {                                     // characters, or SentencePiece's BPE
  constructor({ pieces, codes }) {
    this.pieces = pieces
    this.id = new Map(pieces.map((piece, n) => [piece, n]))
    this.codes = codes                                // the numbers of the marks, which are never shown
    this.split = codes.length ? new RegExp(`(${codes.map(n => pieces[n]).join('|')})`) : null
    this.bpe = this.id.has('<0x0A>')
  }

  encode(text) {
    if (!this.bpe) return [...text].map(char => this.id.get(char)).filter(id => id !== undefined)
    return text.replaceAll(' ', '▁').split(this.split).flatMap(part =>
      this.codes.includes(this.id.get(part)) ? [this.id.get(part)] : this.merge([...part]))
  }

  merge(parts) {                                      // again and again the pair that became a piece first
    for (;;) {
      let best = Infinity, at
      for (let i = 0; i + 1 < parts.length; i++) {
        const id = this.id.get(parts[i] + parts[i + 1])
        if (id < best) [best, at] = [id, i]
      }
      if (best === Infinity) break
      parts.splice(at, 2, parts[at] + parts[at + 1])
    }
    const byte = n => this.id.get(`<0x${n.toString(16).toUpperCase().padStart(2, '0')}>`)
    return parts.flatMap(part =>
      this.id.has(part) ? [this.id.get(part)] : [...new TextEncoder().encode(part)].map(byte))
  }

  decode(ids) {                                       // bytes become characters again; marks, separators vanish
    const bytes = ids.flatMap(id => {
      const piece = this.pieces[id], byte = this.bpe && /^<0x(..)>$/.exec(piece)
      if (byte) return [parseInt(byte[1], 16)]
      return this.bpe && (id < 2 || this.codes.includes(id)) ? [] : [...new TextEncoder().encode(piece)]
    })
    return new TextDecoder().decode(new Uint8Array(bytes)).replaceAll('▁', ' ')
  }
}

// ---------- songs ----------
function pick(scores, allowed, temperature, topP, random) {        // one of the allowed tokens, as generate.py draws it
  const probs = softmax(Float64Array.from(allowed, id => scores[id] / Math.max(temperature, 0.01)))
  const order = [...allowed.keys()].sort((a, b) => probs[b] - probs[a])
  let kept = 0, sum = 0
  while (kept < order.length && sum < topP) sum += probs[order[kept++]]
  let left = random() * sum
  for (const n of order.slice(0, kept)) if ((left -= probs[n]) <= 0) return allowed[n]
  return allowed[order[0]]
}

class Writer {                                        // a model, its tokenizer, and the marks of s1_control.py
  constructor(file) {
    const { pieces, codes, rhymes = {} } = file
    this.model = new GPT(file)
    this.tokenizer = new Tokenizer(file)
    this.moods = file.moods || []
    this.classes = Object.keys(rhymes)
    this.rhymeOf = new Map(Object.entries(rhymes).flatMap(([name, chars]) => [...chars].map(char => [char, name])))
    const numbers = test => pieces.flatMap((piece, id) => id > 1 && !codes.includes(id) && test(piece) ? [id] : [])
    this.codes = codes
    this.rhymes = Object.fromEntries(this.classes.map(name => [name, this.tokenizer.id.get(`<${name}>`)]))
    this.lengths = codes.filter(id => /\d/.test(pieces[id]))
    this.words = numbers(piece => !piece.includes('\n') && piece !== '<0x0A>')
    this.chars = numbers(piece => /^[\p{L}\p{N}]$/u.test(piece))
    this.points = numbers(piece => /^[^\p{L}\p{N}<>]+$/u.test(piece) && !piece.includes('\n'))
    this.ends = [1, this.tokenizer.id.get('\n')]
    this.continued = this.tokenizer.id.get('<续>') ?? 1             // begins a song whose first lines are left out
  }

  rhyme(line) {                                       // the class that a line ends in
    const found = /[\u4e00-\u9fff](?=[^\p{L}\p{N}]*$)/u.exec(line)
    return found && this.rhymeOf.get(found[0]) || '无'
  }

  mark(line) {                                        // 等一个人 -> <4>等一个<人辰>人, as in s1_control.py
    const found = /[\u4e00-\u9fff](?=[^\p{L}\p{N}]*$)/u.exec(line), chars = [...line]
    const at = found ? [...line.slice(0, found.index)].length : chars.length - 1
    const [before, after] = [chars.slice(0, at), chars.slice(at)].map(part => part.join(''))
    return `<${Math.min(20, chars.length)}>${before}<${this.rhyme(line)}>${after}`
  }

  encode(line) {
    return this.tokenizer.encode((this.codes.length ? this.mark(line) : line) + '\n')
  }

  fitting(lines) {                                    // the last of the lines: half the window stays for the song
    let left = this.model.config.BLOCK_SIZE / 2
    return [...lines].reverse().filter(line => (left -= this.encode(line).length) >= 0).reverse()
  }

  begin(lines, mood = '') {                           // the tokens of a song that begins like this
    const kept = this.fitting(lines), header = this.codes.length ? (mood && `<情绪>${mood}`) + '<歌词>' : ''
    return [kept.length < lines.length ? this.continued : 1, ...this.tokenizer.encode(header),
      ...kept.flatMap(line => this.encode(line))]
  }

  allowed(line, rhyme) {                              // what may follow: length, words, rhyme, last character
    if (!this.codes.length) return [...this.words, ...this.ends]
    const codes = Object.values(this.rhymes)
    if (!line.length) return this.lengths
    if (codes.includes(line.at(-1)))
      return rhyme ? this.chars.filter(id => this.rhymeOf.get(this.tokenizer.pieces[id]) === rhyme) : this.chars
    if (line.some(id => codes.includes(id))) return [...this.points, ...this.ends]
    return [...rhyme ? [this.rhymes[rhyme]] : codes, ...line.length < 30 ? this.words : []]
  }

  *write({ lines = [], mood, rhyme, temperature = 0.8, topP = 0.9, random = Math.random }) {
    const ids = this.begin(lines, mood)               // token by token: the line so far, and whether it is complete
    let line = []
    while (ids.length < this.model.config.BLOCK_SIZE) {
      const token = pick(this.model.after(ids), this.allowed(line, rhyme), temperature, topP, random)
      const complete = this.ends.includes(token)
      ids.push(token)
      if (!complete) line.push(token)
      yield { text: this.tokenizer.decode(line), complete }
      if (complete) line = []
      if (token === 1) return
    }
  }

  surprises(lines) {                                  // [{text, bits, places}], marks left out; places: of its tokens
    const ids = this.begin(lines).slice(0, -1)
    let places = []                                   // a character in bytes is several tokens
    this.model.after(ids)
    return ids.flatMap((id, at) => {
      if (!at || this.codes.includes(id)) return []
      places.push(at)
      const text = this.tokenizer.decode(places.map(place => ids[place]))
      if (text.includes('\ufffd')) return []
      const made = { text, places, bits: places.reduce((sum, place) => sum + this.model.bits[place], 0) }
      places = []
      return [made]
    })
  }

  likely(at) {                                        // the ten likeliest tokens at a place: [[piece, probability]]
    const probs = softmax(this.model.scores[at - 1]), order = [...probs.keys()].sort((a, b) => probs[b] - probs[a])
    return order.slice(0, 10).map(id => [this.tokenizer.pieces[id], probs[id]])
  }
}
