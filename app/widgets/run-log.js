const box = element.querySelector('pre'), details = element.querySelector('details');
const toEnd = () => { box.scrollTop = box.scrollHeight; };
let run = null;
show((data) => {
  const follows = run !== data.run || box.scrollHeight - box.scrollTop - box.clientHeight < 24;
  run = data.run;
  const text = data.text || 'Nothing yet.';
  if (box.textContent === text) return;
  box.textContent = text;
  if (follows) toEnd();
});
details.addEventListener('toggle', toEnd);
