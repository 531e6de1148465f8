const MOST_BYTES = 32 * 2 ** 20 + 8; // of a header, as the server has it
const told = part('.told');
const drop = part('.drop');
const answer = (found) => {
  part('.answer').hidden = false;
  part('.file-name').textContent = found.name;
  part('h4').textContent = found.title;
  part('.where').textContent = found.is_adapter ? (found.exact.length ? `Renders exactly in ${found.exact.join(', ')} (${found.condition}).` : 'No program that we know renders it exactly.') : '';
  part('.wrong').replaceChildren(...found.wrong.map(([program, words]) => make('li', { textContent: `${program}: ${words}` })));
  part('dl').replaceChildren(...found.facts.flatMap(([name, text]) => [make('dt', { textContent: name }), make('dd', { textContent: text })]));
  part('.notes').replaceChildren(...found.notes.map((text) => make('li', { textContent: text })));
};
let asked = 0;
const look = async (ask) => {
  const number = ++asked;
  told.textContent = 'Looking.';
  part('.answer').hidden = true;
  try {
    const found = await ask();
    if (number !== asked) return;
    told.textContent = '';
    answer(found);
  } catch (error) {
    if (number === asked) { told.textContent = error.message; told.dataset.bad = 'true'; }
    return;
  }
  told.dataset.bad = 'false';
};
// The header's length stands in the first eight bytes; of a file that has none the beginning tells what it is.
const headOf = async (file) => {
  const first = new DataView(await file.slice(0, 8).arrayBuffer());
  const length = first.byteLength === 8 ? Number(first.getBigUint64(0, true)) + 8 : file.size;
  return file.slice(0, length <= MOST_BYTES ? length : 64);
};
const lookAt = (file) => look(async () => answered(await fetch(`/adapters/what-is/header?name=${encodeURIComponent(file.name)}&size=${file.size}`, {
  method: 'POST',
  headers: { 'content-type': 'application/octet-stream' },
  body: await (await headOf(file)).arrayBuffer(),
})));
drop.querySelector('input').addEventListener('change', (event) => { const [file] = event.target.files; if (file) lookAt(file); event.target.value = ''; });
for (const name of ['dragover', 'dragleave', 'drop']) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle('over', name === 'dragover');
    const file = name === 'drop' ? event.dataTransfer.files[0] : null;
    if (file) lookAt(file);
  });
}
part('form').addEventListener('submit', (event) => {
  event.preventDefault();
  look(() => post('/adapters/what-is', { path: event.target.elements.path.value }));
});
