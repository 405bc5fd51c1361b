"""Fill the README's table of results from docs/results/results.json.

python scripts/readme_results.py
"""

from gpunet.experiments.published import RESULTS, ROOT, fill_readme, load_published
from gpunet.files import write_text_atomic

if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = fill_readme(readme.read_text(encoding="utf-8"), load_published(ROOT / RESULTS), (ROOT / RESULTS).parent)
    write_text_atomic(readme, text)
