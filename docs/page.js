// Language, light and dark. Everything else works without this file.
const root = document.documentElement, body = document.body
const keep = (key, value) => { try { localStorage.setItem(key, value) } catch { } }

function speak(lang) {
  root.dataset.lang = lang
  root.lang = lang === 'en' ? 'en' : 'zh-CN'
  document.title = lang === 'en' ? body.dataset.titleEn : body.dataset.title
  const button = document.getElementById('language')
  button.textContent = lang === 'en' ? '中文' : 'English'
  button.lang = lang === 'en' ? 'zh-CN' : 'en'
}
speak(root.dataset.lang || 'zh')
document.getElementById('language').onclick = () => {
  speak(root.dataset.lang === 'en' ? 'zh' : 'en')
  keep('lang', root.dataset.lang)
}
for (const pre of navigator.clipboard ? document.querySelectorAll('pre.command') : []) {
  const button = document.createElement('button'), text = pre.textContent.trim()
  const label = (zh, en) => { button.innerHTML = `<span lang="zh-CN">${zh}</span><span lang="en">${en}</span>` }
  label('复制', 'Copy')
  button.type = 'button'
  button.className = 'copy'
  button.onclick = () => navigator.clipboard.writeText(text).then(() => label('已复制', 'Copied'))
  pre.before(button)
}
for (const box of document.querySelectorAll('.scroll, pre'))      // only what scrolls needs the keyboard
  if (box.scrollWidth <= box.clientWidth) box.removeAttribute('tabindex')
const owner = location.hostname.match(/^(.+)\.github\.io$/)       // served by GitHub: its repository is known
if (owner) document.querySelector('header nav').insertAdjacentHTML('beforeend',
  `<a href="https://github.com/${owner[1]}/${location.pathname.split('/')[1]}">GitHub</a>`)
document.getElementById('theme').onclick = () => {
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches
  keep('theme', root.dataset.theme = dark ? 'light' : 'dark')
}
