// Draws the figure in `props.value` with the plotly.js of the installed wheel, in the colours of the page's theme.
const Plotly = window.dmqPlotly ??= window.Plotly;  // a gr.Plot on the page puts its own version in the global
const graph = element.querySelector('.dmq-plot');
let listening = false, narrow = false;

function themed(layout) {
  const dark = document.body.classList.contains('dark');
  const [ink, grid, card] = dark ? ['#d6dbe6', 'rgba(255,255,255,.13)', '#1b2130'] : ['#2b3344', 'rgba(20,30,60,.12)', '#ffffff'];
  layout.font = {family: 'system-ui, sans-serif', size: 12, ...layout.font, color: ink};
  layout.paper_bgcolor = layout.plot_bgcolor = 'rgba(0,0,0,0)';
  layout.hoverlabel = {...layout.hoverlabel, bgcolor: card, bordercolor: grid, font: {color: ink}};
  layout.legend = {...layout.legend, bgcolor: 'rgba(0,0,0,0)'};
  layout.modebar = {bgcolor: 'rgba(0,0,0,0)', color: grid, activecolor: ink};
  for (const axis of ['xaxis', 'yaxis', ...Object.keys(layout).filter(key => /^[xy]axis\d+$/.test(key))])
    layout[axis] = {...layout[axis], gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true};
  for (const part of [...(layout.updatemenus ?? []), ...(layout.sliders ?? [])])
    Object.assign(part, {bgcolor: card, bordercolor: grid, font: {...part.font, color: ink}});
  return layout;
}

const isNarrow = () => graph.offsetWidth > 0 && graph.offsetWidth < 480;
// On a phone legends go below, a slider goes under its buttons, and long names of rows keep their two ends.
function narrowed(layout) {
  const lower = (pixels, margin) => {
    layout.height = (layout.height ?? 340) + pixels;
    layout.margin = {...layout.margin, ...margin};
  };
  if (layout.legend?.orientation === 'v') {
    layout.legend = {...layout.legend, orientation: 'h', x: 0, y: -0.55, xanchor: 'left', yanchor: 'top'};
    lower(150, {r: 10});
    layout.xaxis.title = {...layout.xaxis.title, standoff: 8};  // below names that stand upright
  }
  if (layout.sliders?.length) {
    for (const slider of layout.sliders) Object.assign(slider, {x: 0, len: 1, pad: {t: 54}});
    lower(60, {b: (layout.margin?.b ?? 0) + 60});
  }
  const short = text => text.length > 21 ? text.slice(0, 7) + '…' + text.slice(-13) : text;
  for (const key of Object.keys(layout).filter(key => /^yaxis\d*$/.test(key)))
    layout[key].ticktext &&= layout[key].ticktext.map(short);
  return layout;
}

// Where a page has a <base>, Plotly writes the page's whole address into references such as clip-path="url(…#clip1)".
// Our address changes with the recipe, and every clip and gradient would be lost: hide the <base> while Plotly looks.
function withoutBase(work) {
  const base = document.querySelector('base[href]'), href = base?.getAttribute('href');
  base?.removeAttribute('href');
  try { return work(); } finally { base?.setAttribute('href', href); }
}

function draw() {
  graph.setAttribute('aria-label', props.label || 'Plot');
  element.querySelector('.dmq-caption').textContent = props.value && props.label || '';
  if (!props.value) {
    Plotly.purge(graph);  // takes the listeners with it
    listening = false;
    return;
  }
  const figure = JSON.parse(props.value);
  const layout = themed(figure.layout ?? {});
  narrow = isNarrow();
  const config = {displaylogo: false, responsive: false, modeBarButtonsToRemove: ['select2d', 'lasso2d']};
  withoutBase(() => Plotly.react(graph, {...figure, layout: narrow ? narrowed(layout) : layout, config})).then(listen);
}

function listen() {  // `graph.on` exists only once something has been drawn
  if (graph.offsetWidth && Math.abs(graph.offsetWidth - graph._fullLayout.width) > 1) Plotly.Plots.resize(graph);
  if (listening) return;
  listening = true;
  graph.on('plotly_click', ({points: [p]}) => trigger('select', {
    index: p.pointIndex ?? p.pointNumber,
    value: p.z ?? p.y,
    x: p.x, y: p.y, trace: p.curveNumber, custom: p.customdata ?? null,
  }));
  graph.on('plotly_relayout', change => change.autosize || trigger('relayout', {ranges: change}));
}

new ResizeObserver(() => {
  if (!listening || !graph.offsetWidth) return;
  narrow === isNarrow() ? Plotly.Plots.resize(graph) : draw();
}).observe(graph);
let dark = document.body.classList.contains('dark');
new MutationObserver(() => {
  if (dark === (dark = document.body.classList.contains('dark')) || !graph.isConnected) return;
  draw();
}).observe(document.body, {attributes: true, attributeFilter: ['class']});
watch(['value', 'label'], draw);
draw();
