// A bar of `props.steps` steps cut into groups; `props.value` holds the first step of every group but the first.
const strip = element.querySelector('.strip'), scale = element.querySelector('.strip-scale');
const colours = ['#8ecae6', '#ffd166', '#95d5b2', '#f4a6c0', '#cdb4db', '#f6bd60'];
const leaps = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1,
               PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity};
let cuts = [], held = -1, grip = 0;  // the draft, the boundary being dragged, where on it the pointer is (in steps)

const share = step => 100 * step / props.steps + '%';
const limits = i => [(cuts[i - 1] ?? 0) + 1, (cuts[i + 1] ?? props.steps) - 1];
const timestep = step => props.timesteps?.[step];
const stepAt = event => {
  const box = strip.getBoundingClientRect();
  return (event.clientX - box.left) / box.width * props.steps;
};

function nodes(kind, count) {  // exactly `count` of them; those already there are kept, and so is the focus
  const found = [...strip.querySelectorAll('.' + kind)];
  found.splice(count).forEach(node => node.remove());
  while (found.length < count) {
    found.push(strip.appendChild(document.createElement('div')));
    found.at(-1).className = kind;
  }
  return found;
}

function draw() {
  const edges = [0, ...cuts, props.steps];
  strip.setAttribute('aria-label', props.label || 'Groups of steps');
  strip.classList.toggle('locked', !!props.locked);
  nodes('part', cuts.length + 1).forEach((node, i) => {
    const [first, last] = [edges[i], edges[i + 1] - 1];
    const label = first === last ? String(first) : first + '\u2013' + last;
    const room = (last - first + 1) / props.steps * strip.clientWidth - 8;  // pixels between the boundaries
    node.textContent = label.length * 7.5 < room ? label : '';
    node.title = `steps ${first} to ${last}, t ${timestep(first) ?? ''} to ${timestep(last) ?? ''}`;
    Object.assign(node.style, {
      left: share(first), width: share(last - first + 1), background: colours[i % colours.length],
    });
  });
  const handles = props.locked ? [] : cuts;
  nodes('cut', handles.length).forEach((node, i) => {
    const [low, high] = limits(i), name = 'First step of group ' + (i + 2);
    const t = timestep(cuts[i]), said = `step ${cuts[i]}` + (t === undefined ? '' : `, t = ${t}`);
    const state = {role: 'slider', tabindex: 0, 'aria-label': name, 'aria-valuemin': low, 'aria-valuemax': high,
                   'aria-valuenow': cuts[i], 'aria-valuetext': said, title: said};
    for (const key in state) node.setAttribute(key, state[key]);
    node.style.left = share(cuts[i]);
  });
  const [first, last] = [timestep(0), timestep(props.steps - 1)];
  scale.children[0].textContent = 'noise' + (first === undefined ? '' : ` · step 0, t = ${first}`);
  scale.children[1].textContent = 'picture' + (last === undefined ? '' : ` · step ${props.steps - 1}, t = ${last}`);
}

function move(i, step) {
  const [low, high] = limits(i);
  cuts[i] = Math.min(high, Math.max(low, Math.round(step)));
  draw();
}

function reset() {  // a value from Python waits while the user holds a boundary
  if (held >= 0) return;
  cuts = [...(props.value || [])];
  draw();
}

function send() {
  held = -1;
  if (JSON.stringify(cuts) === JSON.stringify(props.value)) return;
  props.value = [...cuts];  // Gradio itself sends `change` for this; a trigger('change') here would be a second one
  trigger('input', {cuts: [...cuts]});
}

const indexOf = node => nodes('cut', props.locked ? 0 : cuts.length).indexOf(node);
strip.addEventListener('pointerdown', event => {
  const i = indexOf(event.target);
  if (i < 0) return;
  event.preventDefault();
  event.target.focus();  // before `held` is set: another boundary may lose the focus, and send
  strip.setPointerCapture(event.pointerId);
  held = i;
  grip = stepAt(event) - cuts[i];
});
strip.addEventListener('pointermove', event => held < 0 || move(held, stepAt(event) - grip));
strip.addEventListener('pointerup', send);
strip.addEventListener('pointercancel', () => { held = -1; reset(); });
strip.addEventListener('dblclick', event => {  // a new boundary where there is room for one
  const step = Math.round(stepAt(event));
  if (props.locked || indexOf(event.target) >= 0 || step < 1 || step >= props.steps || cuts.includes(step)) return;
  cuts = [...cuts, step].sort((a, b) => a - b);
  draw();
  send();
});
strip.addEventListener('keydown', event => {
  const i = indexOf(event.target);
  if (i < 0) return;
  if (event.key === 'Delete' || event.key === 'Backspace') {
    cuts.splice(i, 1);
    draw();
    strip.querySelectorAll('.cut')[Math.min(i, cuts.length - 1)]?.focus();
  } else if (event.key in leaps) move(i, cuts[i] + leaps[event.key]);
  else return;
  event.preventDefault();
});
strip.addEventListener('keyup', send);  // once per key press, however long it is held
strip.addEventListener('focusout', send);
new ResizeObserver(draw).observe(strip);
watch(['value', 'steps', 'label', 'locked', 'timesteps'], reset);
reset();
