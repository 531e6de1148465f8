const chips = element.querySelector('.chips');
show((data) => {
  const query = new URLSearchParams(location.search);
  query.set('place', data.place);
  data.run ? query.set('run', data.run) : query.delete('run');
  history.replaceState(null, '', `?${query}`);
  chips.replaceChildren(...data.chips.map((chip) => {
    const item = document.createElement('li');
    item.textContent = chip.text;
    item.title = chip.hint;
    item.dataset.state = chip.state;
    return item;
  }));
});
const dark = () => document.body.classList.contains('dark');
const stored = localStorage.getItem('dora-studio-theme');
if (stored) document.body.classList.toggle('dark', stored === 'dark');
element.querySelector('.theme').addEventListener('click', () => {
  document.body.classList.toggle('dark', !dark());
  localStorage.setItem('dora-studio-theme', dark() ? 'dark' : 'light');
});
