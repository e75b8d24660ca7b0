// The front page's model: it writes on from a line, and shows how much each character surprised it.
const $ = id => document.getElementById(id)
const say = (zh, en) => `<span lang="zh-CN">${zh}</span><span lang="en">${en}</span>`
const FINALS = {                                      // what a rhyme class sounds like
  发花: 'a', 梭坡: 'o、e', 乜斜: 'ie、üe', 一七: 'i、ü', 姑苏: 'u', 怀来: 'ai', 灰堆: 'ei、ui', 遥条: 'ao',
  油求: 'ou、iu', 言前: 'an', 人辰: 'en、in', 江阳: 'ang', 中东: 'eng、ong' }
const MOODS = { 悲伤: 'sad', 平静: 'calm', 欢快: 'cheerful', 激昂: 'rousing' }
let writer, running = 0                               // which song is being written: a newer one ends the older

$('load').onclick = () => {                           // a classic script: opened from disk, a page may not fetch
  $('load').disabled = true
  $('load').innerHTML = say('载入中……', 'Loading …')
  const script = document.createElement('script')
  script.src = 'song-model.js'
  script.onload = () => {
    writer = new Writer(MODELS.songs)
    const option = value => Object.assign(document.createElement('option'), { value,
      textContent: FINALS[value] ? `${value}（${FINALS[value]}）` : value })
    $('mood').append(...writer.moods.map(option))
    moods()
    $('rhyme').append(...writer.classes.filter(name => name !== '无').map(option))
    $('load').hidden = true
    $('playing').hidden = false
    $('opening').focus()
    surprise()
  }
  script.onerror = () => { $('load').innerHTML = say('载入失败：缺 song-model.js', 'song-model.js is missing') }
  document.head.append(script)
}
function moods() {                                    // an option has no room for two languages
  const english = document.documentElement.dataset.lang === 'en'
  for (const option of $('mood').options) option.label = english && MOODS[option.value] || option.textContent
}
$('language').addEventListener('click', moods)

// ---------- a song ----------
const lines = () => $('opening').value.split('\n').map(line => line.trim()).filter(Boolean)

function shown(text, name = writer.rhyme(text)) {     // a line, the character that rhymes in the colour of its class
  const made = document.createElement('div'), found = /([\u4e00-\u9fff])([^\p{L}\p{N}]*)$/u.exec(text)
  const hue = Object.keys(FINALS).indexOf(name) * 360 / 13
  made.append(text.slice(0, hue < 0 ? undefined : found.index))
  if (hue < 0) return made                            // it ends in no rhyme
  const end = Object.assign(document.createElement('b'), { textContent: found[1], title: name, className: 'rhymed' })
  end.style.setProperty('--hue', hue)
  made.append(end, found[2])
  return made
}

function rest() {                                     // a song stands there
  $('stop').disabled = true
  $('write').innerHTML = say('再写一首', 'Again')
}

async function compose() {
  $('copy').innerHTML = say('复制', 'Copy')
  const mine = ++running, wishes = { lines: lines(), mood: $('mood').value, rhyme: $('rhyme').value }
  $('song').replaceChildren(...wishes.lines.map(line => shown(line)))
  $('stop').disabled = false
  let current = null
  for (const { text, complete } of writer.write({ ...wishes, temperature: +$('temperature').value })) {
    if (!current) $('song').append(current = document.createElement('div'))
    current.textContent = text
    if (complete) {
      current.replaceWith(text ? shown(text) : document.createElement('br'))
      current = null
    }
    await new Promise(requestAnimationFrame)          // it writes as fast as the page can show it
    if (running !== mine) return
  }
  current?.remove()                                   // the window is full: half a line is none
  rest()
  $('finished').textContent = $('song').innerText     // read aloud once, not token by token
}
$('playing').onsubmit = event => {
  event.preventDefault()
  compose()
}
$('stop').onclick = () => {
  running++
  rest()
  $('write').focus()
}
$('copy').onclick = () => {
  const text = [...$('song').children].map(line => line.textContent).join('\n')
  navigator.clipboard?.writeText(text).then(() => { $('copy').innerHTML = say('已复制', 'Copied') })
}
$('temperature').oninput = () => { $('degrees').textContent = $('temperature').value }

// ---------- the surprise strip ----------
let tokens = [], reader                               // a second model, so that the song being written is left alone

function surprise() {
  reader ||= new Writer(MODELS.songs)
  tokens = reader.surprises(lines())
  const [all, kept] = [lines().length, reader.fitting(lines()).length]
  $('cut').innerHTML = kept < all ? say(`开头有 ${all} 行，只用得上最后 ${kept} 行。`,
    `Of these ${all} lines only the last ${kept} are used.`) : ''
  $('strip').replaceChildren(...tokens.map((token, n) => {
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = token.text === '\n' ? '⏎' : token.text
    button.title = `${token.bits.toFixed(1)} bit`
    button.style.setProperty('--heat', Math.min(1, token.bits / [...token.text].length / 16))
    button.onmouseenter = button.onfocus = () => likely(n)
    button.onclick = () => look(n)
    return button
  }))
  const chars = tokens.reduce((sum, { text }) => sum + [...text].length, 0)
  const bits = tokens.reduce((sum, token) => sum + token.bits, 0)
  $('mean').textContent = chars ? `${(bits / chars).toFixed(2)} bits/char` : ''
  $('likely').replaceChildren()
  $('looks').replaceChildren()
  $('unseen').replaceChildren()
}
$('opening').oninput = event => event.isComposing || surprise()        // not while pinyin is being typed
$('opening').addEventListener('compositionend', surprise)

function named(piece) {                               // a token; marks in words
  const mark = /^<(.+)>$/.exec(piece)?.[1]
  if (piece === '\n' || mark === '0x0A') return say('〔换行〕', '[line break]')
  if (mark === '/s') return say('〔完〕', '[end]')
  if (mark in writer.rhymes) return say(`〔韵：${mark}〕`, `[rhyme: ${mark}]`)
  if (/^\d+$/.test(mark)) return say(`〔${mark} 字〕`, `[${mark} characters]`)
  if (mark) return say(`〔${mark.replace('0x', '字节 ')}〕`, `[${mark.replace('0x', 'byte ')}]`)
  return piece.replaceAll('▁', '␣').replace(/[<&]/g, char => `&#${char.charCodeAt()};`)
}

function likely(n) {                                  // what it would have expected here
  const { text, places } = tokens[n], expected = reader.likely(places[0]), most = expected[0][1]
  $('likely').replaceChildren(...expected.map(([piece, p]) => {
    const row = document.createElement('div'), name = document.createElement('span'), bar = document.createElement('i')
    name.innerHTML = named(piece)
    bar.style.width = `${100 * p / most}%`
    row.append(name, bar, `${(100 * p).toFixed(1)}%`)
    row.className = piece === text ? 'right' : ''
    return row
  }))
}

const press = (box, chosen) => [...box.children].forEach(other => other.setAttribute('aria-pressed', other === chosen))

function look(n) {                                    // where this token's attention looks: choose a layer and a head
  const looks = reader.model.attention[tokens[n].places.at(-1)]
  const sum = numbers => numbers.reduce((a, b) => a + b, 0)
  const choices = looks.flatMap((heads, layer) => heads.map((head, h) => {
    const seen = tokens.map(({ places }) => sum(places.map(at => head[at] || 0)))      // those after it: nothing
    const button = document.createElement('button'), most = Math.max(...seen), share = sum(seen)
    const unseen = Math.round(100 * Math.max(0, 1 - share))
    button.type = 'button'
    button.innerHTML = say(`层 ${layer + 1} 头 ${h + 1}`, `layer ${layer + 1} head ${h + 1}`)
    button.onclick = () => {
      press($('looks'), button)
      seen.forEach((weight, m) => $('strip').children[m].style.setProperty('--look', weight / most))
      $('unseen').innerHTML = say(`这个头有 ${unseen}% 看向不显示的标记（字数、韵、歌的开头）。`,
        `${unseen}% of this head looks at marks that are not shown (length, rhyme, the start of the song).`)
    }
    return { button, share }
  }))
  $('looks').replaceChildren(...choices.map(({ button }) => button))
  press($('strip'), $('strip').children[n])
  choices.reduce((best, other) => other.share > best.share ? other : best).button.click()      // the one that shows
}

// ---------- the songs of one run ----------
const growth = $('growth')
if (growth) {
  const songs = JSON.parse($('growth-data').textContent)
  growth.oninput = () => {
    const [step, song] = songs[growth.value]
    $('grown').textContent = step
    $('song-then').replaceChildren(...song.flatMap(line => [...shown(...line).childNodes, '\n']))
  }
}
