// The front page's model: it writes on from a line, and shows how much each character surprised it.
const $ = id => document.getElementById(id)
const say = (zh, en) => `<span lang="zh-CN">${zh}</span><span lang="en">${en}</span>`
const FINALS = {                                      // what a rhyme class sounds like
  发花: 'a', 梭坡: 'o、e', 乜斜: 'ie、üe', 一七: 'i、ü', 姑苏: 'u', 怀来: 'ai', 灰堆: 'ei、ui', 遥条: 'ao', 油求: 'ou、iu', 言前: 'an',
  人辰: 'en、in', 江阳: 'ang', 中东: 'eng、ong' }
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
    $('rhyme').append(...writer.classes.filter(name => name !== '无').map(option))
    $('load').hidden = true
    $('playing').hidden = false
    surprise()
  }
  script.onerror = () => { $('load').innerHTML = say('载入失败：缺 song-model.js', 'song-model.js is missing') }
  document.head.append(script)
}

// ---------- a song ----------
const lines = () => $('opening').value.split('\n').map(line => line.trim()).filter(Boolean)

function shown(text) {                                // a line, the character that rhymes in the colour of its class
  const made = document.createElement('div'), name = writer.rhyme(text)
  const at = Math.max(...[...text.matchAll(/[\u4e00-\u9fff]/g)].map(found => found.index))
  made.append(text.slice(0, at < 0 ? undefined : at))
  if (at >= 0) {
    const end = Object.assign(document.createElement('b'), { textContent: text[at], title: name, className: 'rhymed' })
    end.style.setProperty('--hue', writer.classes.indexOf(name) * 360 / writer.classes.length)
    made.append(end, text.slice(at + 1))
  }
  return made
}

async function compose() {
  $('copy').innerHTML = say('复制', 'Copy')
  const mine = ++running, wishes = { lines: lines(), mood: $('mood').value, rhyme: $('rhyme').value }
  $('song').replaceChildren(...wishes.lines.map(shown))
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
  $('stop').disabled = true
}
$('playing').onsubmit = event => {
  event.preventDefault()
  compose()
}
$('stop').onclick = () => {
  running++
  $('stop').disabled = true
}
$('copy').onclick = () => navigator.clipboard?.writeText([...$('song').children].map(line => line.textContent).join('\n'))
  .then(() => { $('copy').innerHTML = say('已复制', 'Copied') })
$('temperature').oninput = () => { $('degrees').textContent = $('temperature').value }

// ---------- the surprise strip ----------
let tokens = [], reader                               // a second model, so that the song being written is left alone

function surprise() {
  reader ||= new Writer(MODELS.songs)
  tokens = lines().length ? reader.surprises(lines().join('\n')) : []
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
}
$('opening').oninput = surprise

function likely(n) {                                  // what it would have expected here
  const { text, likely } = tokens[n], most = likely[0][1]
  $('likely').replaceChildren(...likely.map(([piece, p]) => {
    const row = document.createElement('div'), bar = document.createElement('i')
    bar.style.width = `${100 * p / most}%`
    row.append(Object.assign(document.createElement('span'), { textContent: piece.replace('\n', '⏎').replaceAll('▁', '␣') }),
      bar, `${(100 * p).toFixed(1)}%`)
    row.className = piece === text ? 'right' : ''
    return row
  }))
}

const press = (box, chosen) => [...box.children].forEach(other => other.setAttribute('aria-pressed', other === chosen))

function look(n) {                                    // where this token's attention looks: choose a layer and a head
  const looks = reader.model.attention[tokens[n].at]
  const show = head => tokens.forEach(({ at }, m) =>
    $('strip').children[m].style.setProperty('--look', at <= tokens[n].at ? head[at] ** 0.5 : 0))
  $('looks').replaceChildren(...looks.flatMap((heads, layer) => heads.map((head, h) => {
    const button = document.createElement('button')
    button.type = 'button'
    button.innerHTML = say(`层 ${layer + 1} 头 ${h + 1}`, `layer ${layer + 1} head ${h + 1}`)
    button.onclick = () => {
      press($('looks'), button)
      show(head)
    }
    return button
  })))
  press($('strip'), $('strip').children[n])
  $('looks').lastChild.click()
}

// ---------- the songs of one run ----------
const growth = $('growth')
if (growth) {
  const songs = JSON.parse($('growth-data').textContent)
  growth.oninput = () => {
    const [step, song] = songs[growth.value]
    $('grown').textContent = step
    $('song-then').textContent = song
  }
}
