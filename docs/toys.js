// The toys of the lessons, each in its <div class=toy data-toy="script">, where build.py has drawn one of its states.
const element = (tag, box, content = '') => {
  const made = document.createElement(tag)
  made.innerHTML = content
  box.append(made)
  return made
}

function svg(width, height, content) {
  return `<svg viewBox="0 0 ${width} ${height}" aria-hidden=true style="max-width: ${width}px">${content}</svg>`
}
function bars(rows, unit) {                           // [[label, value]]: the longest fills the width
  const most = Math.max(...rows.map(([, value]) => value))
  const written = value => value < 10 ? value.toPrecision(2) : Math.round(value).toLocaleString('en')
  return `<div class=bars>${rows.map(([label, value]) => `<span>${label}</span>` +
    `<i style="width: ${100 * value / most}%"></i><span>${written(value)} ${unit}</span>`).join('')}</div>`
}

const TOYS = {
  v0_char_rope({ box, say, slider }) {                // two hands that turn with the position
    const draw = () => {
      const hand = (position, colour, name) => {
        const angle = position * 0.3, x = 110 + 80 * Math.sin(angle), y = 100 - 80 * Math.cos(angle)
        return `<line x1=110 y1=100 x2=${x} y2=${y} stroke="var(--${colour})" stroke-width=5 />` +
          `<text x=${110 + 95 * Math.sin(angle)} y=${104 - 92 * Math.cos(angle)} text-anchor=middle>${name}</text>`
      }
      picture.innerHTML = svg(220, 205, `<circle cx=110 cy=100 r=82 fill=none stroke="var(--line)" />` +
        hand(q(), 'quality', 'q') + hand(q() - distance(), 'rhyme', 'k'))
      result.textContent = say(`点积 = cos(0.3 × ${distance()}) = `, `dot product = cos(0.3 × ${distance()}) = `) +
        Math.cos(0.3 * distance()).toFixed(4)
    }
    const q = slider('q 的位置（q、k 一起走）', 'position of q (k goes along)', 0, 60, 1, 10, () => draw())
    const distance = slider('k 在前面几个', 'k is so many before it', 0, 20, 1, 2, () => draw())
    const picture = element('div', box), result = element('p', box)
    draw()
  },

  v1_bpe_rope({ box, say, button }) {                 // the merges, one after another
    const input = Object.assign(element('textarea', box), { rows: 4, maxLength: 300 })
    input.value = '我在旧站台上等你\n你在旧站台下等雨\n雨在站台上等我们\n我们在雨里等你'
    let parts
    const pairs = () => {
      const counts = new Map()
      for (const line of parts) for (let i = 0; i + 1 < line.length; i++) {
        const key = `${line[i]} ${line[i + 1]}`
        counts.set(key, (counts.get(key) || 0) + 1)
      }
      return [...counts].sort((a, b) => b[1] - a[1])
    }
    const show = note => {
      const code = part => `<code>${part.replace(/[<&]/g, '?')}</code>`
      shown.innerHTML = parts.map(line => line.map(code).join(' ')).join('<br>')
      result.textContent = say(`${parts.flat().length} 个 token。`, `${parts.flat().length} tokens. `) + (note || '')
    }
    const start = () => { parts = input.value.split('\n').map(line => [...line.replaceAll(' ', '▁')]); show() }
    button('合并最常相邻的一对', 'Merge the most frequent pair', () => {
      const [[key, count]] = [...pairs(), ['', 0]]
      if (count < 2) return show(say('没有出现两次的一对了', 'no pair occurs twice any more'))
      const [a, b] = key.split(' ')
      parts = parts.map(line => line.reduce((made, part) => {
        if (made.at(-1) === a && part === b) made[made.length - 1] = a + b
        else made.push(part)
        return made
      }, []))
      show(say(`「${a}」「${b}」相邻 ${count} 次，合成「${a}${b}」`,
        `${a} and ${b} stood together ${count} times: ${a}${b}`))
    })
    button('从头再来', 'Start again', start)
    const shown = element('p', box), result = element('p', box)
    input.oninput = start
    start()
  },

  v2_cosine_lr({ box, say, slider }) {                // the schedule
    const draw = () => {
      const rate = step => step < warmup() ? (step + 1) / (warmup() + 1)
        : min() + (1 - min()) * (1 + Math.cos(Math.PI * (step - warmup()) / Math.max(1, 800 - warmup()))) / 2
      const line = Array.from({ length: 201 }, (_, n) => `${20 + n * 2},${130 - 110 * rate(n * 4)}`).join(' ')
      picture.innerHTML = svg(440, 160, `<path d="M20 10V130H425" fill=none stroke="var(--quiet)" />` +
        `<polyline points="${line}" fill=none stroke="var(--quality)" stroke-width=3 />` +
        '<text x=20 y=150>0</text><text x=400 y=150>800</text><text x=26 y=18>LEARNING_RATE</text>')
      const sum = Array.from({ length: 800 }, (_, step) => rate(step)).reduce((a, b) => a + b)
      result.textContent = say(`一共走了峰值的 ${Math.round(sum)} 步`,
        `together as far as ${Math.round(sum)} steps at the peak`)
    }
    const warmup = slider('WARMUP_ITERS', 'WARMUP_ITERS', 0, 800, 10, 200, () => draw())
    const min = slider('MIN_LR ÷ LEARNING_RATE', 'MIN_LR ÷ LEARNING_RATE', 0, 1, 0.05, 0.1, () => draw())
    const picture = element('div', box), result = element('p', box)
    draw()
  },

  v3_gpt2_amp({ box, say }) {                         // what 16 bits make of a number
    const rounded = (x, bits, least, most) => {       // to so many binary digits; powers of two from least to most
      if (!x || !isFinite(x)) return x
      const unit = 2 ** (Math.max(least, Math.floor(Math.log2(Math.abs(x)))) - bits), near = Math.round(x / unit)
      const even = Math.abs(x / unit % 1) === 0.5 ? 2 * Math.round(x / unit / 2) : near
      return Math.abs(even * unit) >= 2 ** (most + 1) ? Math.sign(x) * Infinity : even * unit
    }
    const bits = (value, wide, deep) => {             // sign, exponent, fraction of a number that has this form
      const bias = 2 ** (wide - 1) - 1, size = Math.abs(value), power = Math.floor(Math.log2(size))
      const [exponent, fraction] = size === Infinity ? [2 * bias + 1, 0]
        : power < 1 - bias ? [0, size / 2 ** (1 - bias)] : [power + bias, size / 2 ** power - 1]
      const binary = (number, digits) => number.toString(2).padStart(digits, '0')
      return `${value < 0 ? 1 : 0} ${binary(exponent, wide)} ${binary(fraction * 2 ** deep, deep)}`
    }
    const label = element('label', box, say('一个数 ', 'A number '))
    const input = Object.assign(element('input', label), { value: '1e-8', size: 12 })
    const table = element('div', box), some = element('p', box)
    const draw = () => {
      const x = Number(input.value)
      const rows = [['float32', Math.fround(x), 8, 23], ['bfloat16', rounded(x, 7, -126, 127), 8, 7],
        ['float16', rounded(x, 10, -14, 15), 5, 10]]
      table.innerHTML = `<table><tr><th><th>${say('符号 指数 尾数', 'sign exponent fraction')}<th></tr>${rows.map(
        ([name, value, wide, deep]) => `<tr><td>${name}<td>` +
          `<code>${isNaN(value) ? '' : bits(value, wide, deep)}</code>` +
          `<td>${Number(value.toPrecision(9))}</tr>`).join('')}</table>`
    }
    for (const value of ['65536', '1.001', '1e-8', '0.1', '3.4e38']) {
      const made = element('button', some, value)
      made.type = 'button'
      made.onclick = () => { input.value = value; draw() }
    }
    input.oninput = draw
    draw()
  },

  v4_flash_optim({ box, say, slider }) {              // the memory of scores
    const draw = () => {
      const t = 2 ** window_()
      const rows = [[say('分数矩阵', 'scores'), 12 * t * t * 2 / 2 ** 20], ['flash', t * 768 * 2 / 2 ** 20]]
      result.innerHTML = `${bars(rows, 'MiB')}<p>T = ${t.toLocaleString('en')}</p>`
    }
    const window_ = slider('窗口：2 的几次方', 'window: 2 to the power of', 6, 15, 1, 10, () => draw())
    const result = element('div', box)
    draw()
  },

  v5_checkpoint({ box, say, button }) {               // at which moment is which file whole?
    const written = ['', '▓░░░', '▓▓▓░', '▓▓▓▓', '']
    let step = 400, at = 0, timer
    const show = (note = '') => {
      const unfinished = written[at] && `<code>unfinished.tmp: ${written[at]}</code>`
      files.innerHTML = `<code>latest.pt: ${step}</code> ${unfinished}<br>${note}`
    }
    const run = () => {
      clearInterval(timer)
      at = 0
      show(say(`第 ${step + 200} 步，开始保存……`, `step ${step + 200}, saving …`))
      timer = setInterval(() => {
        at++
        if (at === 4) {
          step += 200
          clearInterval(timer)
        }
        show(at === 3 ? say('写完，落盘', 'written and on the disk')
          : at === 4 ? say('改名：一瞬间', 'renamed: in one instant') : '')
      }, 900)
    }
    button('保存一次', 'Save', run)
    button('kill -9', 'kill -9', () => {
      clearInterval(timer)
      show(say(`被杀了。latest.pt 是完整的：从第 ${step} 步继续`,
        `Killed. latest.pt is whole: it goes on from step ${step}`))
    })
    const files = element('p', box)
    show()
  },

  v7_grad_accum({ box, say, slider }) {               // parts of a batch, and what has to be kept at a time
    const draw = () => {
      const size = 2 ** micro(), parts = 64 / size
      const rows = [[say('同时存着', 'kept at a time'), size], [say('一次更新看', 'per update'), 64]]
      picture.innerHTML = svg(440, 60, Array.from({ length: 64 }, (_, n) => `<rect x=${10 + n * 6.5} y=12 ` +
        `width=5 height=36 fill="var(--${['memory', 'speed'][Math.floor(n / size) % 2]})" />`).join(''))
      result.innerHTML = bars(rows, say('个窗口', 'windows')) +
        `<p>${say(`${parts} 份，梯度各乘 ${size}/64，加起来`,
          `${parts} parts, gradients times ${size}/64, added up`)}</p>`
    }
    const micro = slider('MICRO_BATCH_SIZE：2 的几次方', 'MICRO_BATCH_SIZE: 2 to the power of', 0, 6, 1, 4, draw)
    const picture = element('div', box), result = element('div', box)
    draw()
  },

  v10_muon({ box, say, slider }) {                    // five steps of Newton-Schulz make an ellipse a circle
    const after = (s, steps) => {
      for (let n = 0; n < steps; n++) s = 3.4445 * s - 4.775 * s ** 3 + 2.0315 * s ** 5
      return s
    }
    const draw = () => {
      const norm = Math.hypot(1, ratio()), [long, short] = [after(1 / norm, steps()), after(ratio() / norm, steps())]
      picture.innerHTML = svg(220, 220,
        `<circle cx=110 cy=110 r=85 fill=none stroke="var(--line)" stroke-dasharray=4 />` +
        `<ellipse cx=110 cy=110 rx=${85 * long} ry=${85 * short} fill=none stroke="var(--quality)" stroke-width=4 />`)
      result.textContent = `${say('奇异值', 'singular values')} ${long.toFixed(2)}, ${short.toFixed(2)}`
    }
    const steps = slider('迭代几步', 'steps', 0, 5, 1, 0, () => draw())
    const ratio = slider('短轴 ÷ 长轴', 'short axis ÷ long axis', 0.01, 1, 0.01, 0.1, () => draw())
    const picture = element('div', box), result = element('p', box)
    draw()
  },

  v12_ddp({ box, say, button }) {                     // windows are dealt out, gradients added up
    let step = 0
    const show = () => {
      const rows = [0, 1, 2, 3].map(rank => {
        const windows = [0, 1].map(n => step * 8 + n * 4 + rank)
        return [rank, windows, windows.reduce((sum, n) => sum + (n * 7 % 5 - 1), 0)]
      })
      const total = rows.reduce((sum, [, , mine]) => sum + mine, 0)
      const names = say(['进程', '它的窗口', '自己的梯度', '总和（每个进程都拿到）'],
        ['process', 'its windows', 'its gradient', 'the sum, for all'])
      table.innerHTML = `<table><tr>${names.map(name => `<th>${name}`).join('')}</tr>` +
        rows.map(([rank, windows, mine]) => `<tr><td>${rank}<td>${windows.join(', ')}<td>${mine}<td>${total}</tr>`)
          .join('') + '</table>'
    }
    button('下一步', 'Next step', () => { step++; show() })
    const table = element('div', box)
    show()
  },

  s1_control({ box, say, button }) {                  // a line gets its marks; a rhyme leaves few last characters
    const RHYMES = { 发花: '花家下他茶', 梭坡: '歌火落我说', 乜斜: '夜雪月别街', 一七: '你起衣雨去', 姑苏: '路树哭书舞',
      怀来: '来海爱白台', 灰堆: '飞泪回岁谁', 遥条: '桥笑到老鸟', 油求: '走酒秋楼手', 言前: '天山见远船',
      人辰: '人心云春门', 江阳: '上光想窗江', 中东: '风灯梦听红' }
    const label = element('label', box, say('一行歌词 ', 'A line '))
    const input = Object.assign(element('input', label), { value: '旧站台上', maxLength: 20 })
    let step = 0
    const show = () => {
      const line = input.value, found = /[\u4e00-\u9fff](?=[^\p{L}\p{N}]*$)/u.exec(line)
      const rhyme = found ? Object.keys(RHYMES).find(name => RHYMES[name].includes(found[0])) || '？' : '无'
      const at = found ? found.index : line.length - 1, length = step > 0 ? `<${[...line].length}>` : ''
      marked.textContent = length + (step > 1 ? `${line.slice(0, at)}<${rhyme}>${line.slice(at)}` : line)
      result.textContent = [say('还没有标记', 'no marks yet'), say('行首：几个字', 'at the start: how many characters'),
        say('末字之前：它的韵（脚本查 pypinyin；这里只认得下面的字）',
          'before the last: its rhyme (the script asks pypinyin; here only the characters below are known)')][step]
    }
    button('下一步', 'Next step', () => { step = (step + 1) % 3; show() })
    const marked = element('code', element('p', box)), result = element('p', box)
    input.oninput = () => { step = 0; show() }
    const ask = element('label', box, say('要一个韵，末字只剩这些 ', 'Ask for a rhyme: only these can end the line '))
    const wish = element('select', ask, ['—', ...Object.keys(RHYMES)].map(name => `<option>${name}`).join(''))
    const left = element('p', box)
    wish.onchange = () => {
      left.innerHTML = Object.entries(RHYMES).map(([name, chars]) =>
        ['—', name].includes(wish.value) ? chars : `<span class=gone>${chars}</span>`).join(' ')
    }
    wish.onchange()
    show()
  },

  s2_rhyme_rl({ box, say, slider, button }) {         // reward and leash, on one choice of five last characters
    const base = [0.3, 0.1, 0.1, 0.05, 0.45], reward = [0, 1, 1, 1, 0]
    let scores
    const probs = list => {
      const sum = list.reduce((total, score) => total + Math.exp(score), 0)
      return list.map(score => Math.exp(score) / sum)
    }
    const names = [say('台（同一个字）', '台 (the same)'), '来', '海', '白', say('山（不押）', '山 (no rhyme)')]
    const show = () => {
      const p = probs(scores), mean = p.reduce((sum, value, n) => sum + value * reward[n], 0)
      const kl = p.reduce((sum, value, n) => sum + value * Math.log(value / base[n]), 0)
      chart.innerHTML = bars(p.map((value, n) => [names[n], 100 * value]), '%')
      result.textContent = `${say('押韵', 'rhymes')} ${(100 * mean).toFixed(0)} %, KL ${kl.toFixed(2)}`
    }
    const start = () => { scores = base.map(Math.log); show() }
    const practise = () => {                          // the expected policy gradient, minus that of the KL
      for (let n = 0; n < 5; n++) {
        const p = probs(scores), mean = p.reduce((sum, value, i) => sum + value * reward[i], 0)
        const far = p.map((value, i) => Math.log(value / base[i]))
        const kl = p.reduce((sum, value, i) => sum + value * far[i], 0)
        scores = scores.map((score, i) => score + p[i] * (reward[i] - mean - leash() * (far[i] - kl)))
      }
      show()
    }
    element('p', box, say('第 2 行以「台」收尾。第 4 行的末字，各有多大机会？',
      'Line 2 ends in 台. How likely is each end of line 4?'))
    const leash = slider('KL_WEIGHT', 'KL_WEIGHT', 0, 1, 0.1, 0.5, () => {})
    button('练习五步', 'Five steps of practice', practise)
    button('从头再来', 'Start again', start)
    const chart = element('div', box), result = element('p', box)
    start()
  },
}

for (const box of document.querySelectorAll('.toy')) {
  const english = !!box.closest('[lang=en]')
  const say = (chinese, other) => english ? other : chinese
  const slider = (chinese, other, min, max, step, value, changed) => {        // its number, and `changed` at every move
    const label = element('label', box, `${say(chinese, other)} `)
    const input = Object.assign(element('input', label), { type: 'range', min, max, step, value })
    const shown = element('output', label)
    input.oninput = () => { shown.textContent = input.value; changed() }
    shown.textContent = value
    return () => +input.value
  }
  const button = (chinese, other, clicked) => {
    const made = element('button', box, say(chinese, other))
    made.type = 'button'
    made.onclick = clicked
    return made
  }
  box.replaceChildren()
  TOYS[box.dataset.toy]({ box, say, slider, button })
}
