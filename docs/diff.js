// A step page: layout, filter by idea, the bar, the keyboard.
const diff = document.getElementById('diff'), layout = document.getElementById('layout')
const select = document.getElementById('hunks'), position = document.getElementById('position')
const shown = () => [...diff.querySelectorAll('.hunk:not(.away)')]

function arrange(side) {
  root.dataset.layout = side ? 'side' : 'unified'
  layout.setAttribute('aria-pressed', side)
  keep('layout', root.dataset.layout)
}
arrange(root.dataset.layout === 'side')
layout.onclick = () => arrange(root.dataset.layout !== 'side')

const chips = [...document.querySelectorAll('.tools [data-idea]')]
chips.forEach(chip => {
  chip.onclick = () => {                              // one idea, or all
    const pressed = chip.getAttribute('aria-pressed') === 'true'
    chips.forEach(other => other.setAttribute('aria-pressed', other === chip && !pressed))
    for (const hunk of diff.querySelectorAll('.hunk'))
      hunk.classList.toggle('away', !pressed && !hunk.dataset.ideas.split(' ').includes(chip.dataset.idea))
    const fold = diff.querySelector('.plumbing')
    fold?.classList.toggle('away', !fold.querySelector('.hunk:not(.away)'))
    where()
  }
})

let last = null                                       // the hunk that was gone to last

function current() {                                  // that one while it is in sight, or the last that begins above a third
  const hunks = shown()
  let at = -1
  hunks.forEach((hunk, n) => {
    if (hunk.offsetParent && hunk.getBoundingClientRect().top < innerHeight / 3) at = n
  })
  const box = last && hunks.includes(last) && last.getBoundingClientRect()
  return [hunks, box && box.bottom > 0 && box.top < innerHeight ? hunks.indexOf(last) : at]
}
function where() {
  const [hunks, at] = current()
  position.textContent = `${Math.max(at + 1, 0)} / ${hunks.length}`
  if (hunks.length) select.value = hunks[Math.max(at, 0)].id
  document.getElementById('previous').disabled = at <= 0
  document.getElementById('following').disabled = at >= hunks.length - 1
}
function show(hunk) {
  for (let fold = hunk.closest('details'); fold; fold = fold.parentElement.closest('details')) fold.open = true
  last = hunk
  hunk.focus({ preventScroll: true })
  hunk.scrollIntoView()
  history.replaceState(null, '', '#' + hunk.id)
  where()
}
function go(direction) {
  const [hunks, at] = current(), next = hunks[Math.min(Math.max(at + direction, 0), hunks.length - 1)]
  if (next) show(next)
}
document.getElementById('previous').onclick = () => go(-1)
document.getElementById('following').onclick = () => go(1)
select.onchange = () => {
  const hunk = document.getElementById(select.value)
  if (hunk.classList.contains('away')) chips.find(chip => chip.getAttribute('aria-pressed') === 'true').click()
  show(hunk)
}
addEventListener('scroll', where, { passive: true })

const shortcuts = document.getElementById('shortcuts')
try { shortcuts.checked = localStorage.getItem('shortcuts') !== 'off' } catch { }
shortcuts.onchange = () => keep('shortcuts', shortcuts.checked ? 'on' : 'off')
addEventListener('keydown', event => {
  if (!shortcuts.checked || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return
  if (event.target.closest('input, select, textarea')) return
  if (event.key === 'j') go(1)
  else if (event.key === 'k') go(-1)
  else if (/^Arrow(Left|Right)$/.test(event.key)) {
    const link = document.querySelector(event.key === 'ArrowLeft' ? 'a[rel=prev]' : 'a[rel=next]')
    if (!link || event.target.closest('pre, .scroll, button')) return        // a wide figure scrolls with the arrows
    link.click()
  } else return
  event.preventDefault()
})

function land() {                                     // a link into a hunk, folded or not
  const place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))
  if (place && place.matches('.hunk')) show(place)
}
addEventListener('hashchange', land)
land()
where()
