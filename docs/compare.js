// Any script against any other: definitions by name; inside those that both have, the lines of a longest common subsequence stay.
const data = JSON.parse(document.getElementById('data').textContent), names = Object.keys(data.scripts), context = 3
const a = document.getElementById('a'), b = document.getElementById('b'), layout = document.getElementById('layout')

const plain = html => html.replace(/<[^>]*>/g, '')

function common(one, two) {                           // [[kind, i, j]]: same, old, new
  const best = Array.from({ length: one.length + 1 }, () => new Uint16Array(two.length + 1)), rows = []
  for (let i = one.length - 1; i >= 0; i--)
    for (let j = two.length - 1; j >= 0; j--)
      best[i][j] = one[i] === two[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1])
  let i = 0, j = 0
  while (i < one.length || j < two.length) {
    if (i < one.length && j < two.length && one[i] === two[j]) rows.push(['e', i++, j++])
    else if (i < one.length && (j === two.length || best[i + 1][j] >= best[i][j + 1])) rows.push(['d', i++, null])
    else rows.push(['a', null, j++])
  }
  return rows
}

function parts(from, to) {                            // [[name, rows]] in the order of the new script; what goes, where it stood
  const old = data.scripts[from], young = data.scripts[to], made = []
  const sequence = common(old.map(part => part[0]), young.map(part => part[0]))
  for (const [kind, i, j] of sequence) {
    if (kind === 'e' && old[i][1] === young[j][1]) continue
    const [one, two] = [i === null ? [] : data.definitions[old[i][1]], j === null ? [] : data.definitions[young[j][1]]]
    const rows = common(one, two).map(([k, x, y]) => [k, x === null ? null : x + old[i][2], y === null ? null : y + young[j][2],
      data.lines[x === null ? two[y] : one[x]]])
    made.push([kind === 'd' ? old[i][0] : young[j][0], rows])
  }
  return made
}

function show() {
  let html = '', added = 0, removed = 0
  for (const [name, rows] of parts(a.value, b.value)) {
    const news = row => row[0] !== 'e' && plain(row[3]).trim()            // empty lines are no news
    const near = rows.map((_, n) => rows.slice(Math.max(0, n - context), n + context + 1).some(news))
    let lines = '', u = 0, s = 0, left = 0, right = 0
    rows.forEach(([kind, i, j, line], n) => {
      if (!near[n]) return
      if (lines && !near[n - 1]) {
        s = Math.max(left, right, s) + 1; left = right = s
        lines += `<div class="w e" style="--u:${++u};--s:${s};--i:0"><i class=o></i><i class=n></i><code>⋯</code></div>`
      }
      if (kind === 'e') { s = Math.max(left, right, s) + 1; left = right = s }
      const side = kind === 'e' ? s : kind === 'd' ? ++left : ++right
      if (kind === 'd') removed++
      if (kind === 'a') added++
      const tag = { e: 'code', d: 'del', a: 'ins' }[kind]
      lines += `<div class="w ${kind}" style="--u:${++u};--s:${side};--i:${plain(line).search(/\S|$/)}"><i class=o>${i === null ? '' : i + 1}</i><i class=n>${j === null ? '' : j + 1}</i><${tag}>${line}</${tag}></div>`
    })
    html += `<div class=hunk id="${name}" tabindex=-1><h2>${name}</h2><div class=rows>${lines}</div></div>`
  }
  document.getElementById('diff').innerHTML = html || '<p><span lang="zh-CN">两边相同。</span><span lang="en">No difference.</span></p>'
  document.getElementById('counts').innerHTML = `<ins>+${added}</ins> <del>−${removed}</del>`
}

function read() {
  const [from, to] = location.hash.slice(1).split('...')
  a.value = names.includes(from) ? from : 'v1_bpe_rope'
  b.value = names.includes(to) ? to : 'v6_wandb'
  show()
}
a.onchange = b.onchange = () => { history.replaceState(null, '', `#${a.value}...${b.value}`); show() }
layout.onclick = () => {
  keep('layout', root.dataset.layout = root.dataset.layout === 'side' ? 'unified' : 'side')
  layout.setAttribute('aria-pressed', root.dataset.layout === 'side')
}
addEventListener('hashchange', read)
read()
