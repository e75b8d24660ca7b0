// Any rung against any other, laid out as the steps are, but line by line: no words are marked. The differences themselves are in the page, as Python's difflib found them.
const data = JSON.parse(document.getElementById('data').textContent), context = 3
const a = document.getElementById('a'), b = document.getElementById('b'), names = Object.keys(data.scripts)

const cell = (side, number, line) => number < 0 ? `<i class=${side}></i><code class="${side} no"></code>`
  : `<i class=${side}>${number + 1}</i><${side === 'l' ? 'del' : 'ins'} class=${side}>${data.lines[line]}</${side === 'l' ? 'del' : 'ins'}>`
const same = (i, j, line) => `<div class="w eq"><i class=l>${i + 1}</i><code class=l aria-hidden=true>${data.lines[line]}</code><i>${j + 1}</i><code>${data.lines[line]}</code></div>`

function changes(from, to) {                          // [i, j, k, m]: lines i..j of `from` become lines k..m of `to`
  const backwards = names.indexOf(from) > names.indexOf(to), flat = data.pairs[backwards ? `${to} ${from}` : `${from} ${to}`] || []
  const list = []
  let i = 0, k = 0
  for (let n = 0; n < flat.length; n += 3) {
    i += flat[n]; k += flat[n]
    const [j, m] = [i + flat[n + 1], k + flat[n + 2]]
    list.push(backwards ? [k, m, i, j] : [i, j, k, m])
    i = j; k = m
  }
  return list
}

let shown
function show() {
  const pair = shown = `${a.value}...${b.value}`
  const [old, young] = [data.scripts[a.value], data.scripts[b.value]], list = changes(a.value, b.value)
  let html = '', i = 0, k = 0, open = false, added = 0, removed = 0, hunks = 0
  const close = () => { if (open) html += '</div></section>'; open = false }
  const start = line => {                             // a change begins, with line `line` of the new script
    if (open) return
    open = true
    hunks++
    const title = `${hunks} · ${b.value} <span lang="zh-CN">第 ${line + 1} 行</span><span lang="en">line ${line + 1}</span>`
    html += `<section class=hunk id="${pair}.${hunks}" tabindex=-1><h2><a href="#${pair}.${hunks}">${title}</a></h2><div class=rows>`
  }
  const quiet = (n, last) => {                        // n unchanged lines: the ends stay in sight, the middle is folded
    const head = open ? context : 0, tail = last ? 0 : context
    const lines = Array.from({ length: n }, (_, x) => same(i + x, k + x, young[k + x]))
    if (n > head + tail + 2) {
      html += lines.slice(0, head).join('')
      close()
      const middle = n - head - tail
      html += `<details class=fold><summary><span lang="zh-CN">${middle} 行没有变</span><span lang="en">${middle} unchanged lines</span></summary>${lines.slice(head, n - tail).join('')}</details>`
      if (tail) { start(k + n - tail); html += lines.slice(n - tail).join('') }
    } else { if (!last) start(k); html += lines.join('') }
    i += n; k += n
  }
  for (const [from, to, start2, end2] of list) {
    quiet(from - i, false)
    start(k)
    for (let x = 0; x < Math.max(to - from, end2 - start2); x++) {
      const left = from + x < to ? from + x : -1, right = start2 + x < end2 ? start2 + x : -1
      html += `<div class=w>${cell('l', left, old[left])}${cell('r', right, young[right])}</div>`
    }
    removed += to - from; added += end2 - start2
    i = to; k = end2
  }
  quiet(old.length - i, true)
  close()
  document.getElementById('diff').innerHTML = html
  document.getElementById('counts').innerHTML = `<ins>+${added}</ins> <del>−${removed}</del>`
}

function read() {
  const [from, to] = location.hash.slice(1).replace(/\.\d+$/, '').split('...')     // #v1...v6.3: the third change from v1 to v6
  a.value = names.includes(from) ? from : names.at(-2)
  b.value = names.includes(to) ? to : names.at(-1)
  if (shown !== `${a.value}...${b.value}`) show()
  unfold()                                            // the hunk that the link names
}
a.onchange = b.onchange = () => { history.replaceState(null, '', `#${a.value}...${b.value}`); show() }
addEventListener('hashchange', () => { if (location.hash.includes('...')) read() })
read()
