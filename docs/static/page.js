// Language, light and dark, and the keyboard. Everything else works without this file.
const root = document.documentElement, body = document.body
const keep = (key, value) => { try { if (value === undefined) return localStorage.getItem(key); localStorage.setItem(key, value) } catch { return null } }

function speak(lang) {
  root.dataset.lang = lang
  root.lang = lang === 'en' ? 'en' : 'zh-CN'
  document.title = lang === 'en' ? body.dataset.titleEn : body.dataset.title
  const button = document.getElementById('language')
  button.textContent = lang === 'en' ? '中文' : 'English'
  button.lang = lang === 'en' ? 'zh-CN' : 'en'
  keep('lang', lang)
}
speak(keep('lang') || 'zh')
document.getElementById('language').onclick = () => speak(root.dataset.lang === 'en' ? 'zh' : 'en')

const shade = scheme => { root.style.colorScheme = scheme; keep('theme', scheme) }
if (keep('theme')) shade(keep('theme'))
document.getElementById('theme').onclick = () => {
  const dark = root.style.colorScheme ? root.style.colorScheme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  shade(dark ? 'light' : 'dark')
}

function go(direction) {                              // to the next or previous change
  const hunks = [...document.querySelectorAll('.hunk')]
  if (!hunks.length) return
  const at = hunks.indexOf(document.activeElement.closest('.hunk')), box = at < 0 ? null : hunks[at].getBoundingClientRect()
  let next = at + direction
  if (!box || box.bottom < 0 || box.top > innerHeight) {     // none in sight has the focus: from where the reader is
    const top = parseFloat(getComputedStyle(root).scrollPaddingTop) + 1
    const after = hunks.findIndex(hunk => hunk.getBoundingClientRect().top > top)
    next = direction > 0 ? (after < 0 ? hunks.length - 1 : after) : (after < 0 ? hunks.length : after) - 1
  }
  const hunk = hunks[Math.min(Math.max(next, 0), hunks.length - 1)]
  hunk.focus({ preventScroll: true })
  hunk.scrollIntoView()
  history.replaceState(null, '', '#' + hunk.id)
}

addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.target.closest('input, select, textarea')) return
  if (event.key === 'j') go(1)
  else if (event.key === 'k') go(-1)
  else if (/^Arrow(Left|Right)$/.test(event.key)) {
    const link = document.querySelector(event.key === 'ArrowLeft' ? 'a[rel=prev]' : 'a[rel=next]')
    if (!link || event.target.closest('pre.figure')) return         // a wide figure scrolls with the arrows
    link.click()
  }
  else if (event.key === 'o') {
    const folds = [...document.querySelectorAll('details.fold')], open = folds.some(fold => !fold.open)
    folds.forEach(fold => { fold.open = open })
  } else return
  event.preventDefault()
})

function unfold() {                                   // a link into a folded stretch opens it
  let place = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))
  if (!place) return
  if (place.matches('.hunk')) place.focus({ preventScroll: true })
  for (let fold = place.closest('details'); fold; fold = fold.parentElement.closest('details')) fold.open = true
  place.scrollIntoView()
}
addEventListener('hashchange', unfold)
unfold()
