"""Texts that a page must show as they are."""

ODD_TEXTS = (
    "a <!-- comment",
    "a <!--<script> that is never closed",
    "a </script> and <script>alert(1)</script>",
    "a ]]> and <![CDATA[",
    "a {{ title }} {% raw %} {# note #}",
    """a "quoted" 'word' & &amp; <b>bold</b>""",
    "čaj, 月, \U0001f375, \u2028 and \u00a0",
)
